"""Record <-> string of units, one by one and as columns."""
