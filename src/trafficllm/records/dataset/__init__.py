"""Data sets on disk: built, split, opened, described."""
