"""Captures without the people in them."""
