"""Captures in and out: read, decode, flows, facts, write, compile, check."""
