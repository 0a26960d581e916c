"""Bases and vocabularies made and tuned."""
