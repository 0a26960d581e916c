"""Errors, frozen values, configuration, file safety and escaping: what every room may use."""
