"""The `evaluate` commands: one module a study."""
