"""The same traffic as it would look elsewhere or later."""
