"""What a scenario is written as, beside its capture."""
