"""Where the flows of a scenario come from."""
