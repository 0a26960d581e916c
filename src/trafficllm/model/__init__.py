"""Tokenizer, traffic base, two-stage tuning and adapters."""
