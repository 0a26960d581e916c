"""Captures of a network interface while they run: the program that captures, and the flows of its packets as they finish."""
