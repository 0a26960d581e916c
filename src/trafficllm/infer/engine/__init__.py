"""Prompts in, label probabilities out."""
