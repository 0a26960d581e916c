"""Streams of rows in the forms other programs read."""
