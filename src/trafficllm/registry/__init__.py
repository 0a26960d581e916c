"""Adapter versions as transactions on files."""
