"""Flow plans to valid frames."""
