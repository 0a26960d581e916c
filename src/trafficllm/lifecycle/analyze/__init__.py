"""Captures in, verdicts, packets and flows out."""
