"""Packet header fields under tshark's names."""
