"""The adapters that a version is made of: one, or several members that answer together."""
