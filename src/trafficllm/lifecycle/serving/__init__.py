"""Adapters for servers of other projects."""
