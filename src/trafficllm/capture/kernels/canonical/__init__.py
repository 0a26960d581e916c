"""Payload beginnings in canonical form: bytes that no fact depends on become zero, so that flows alike are parsed once."""
