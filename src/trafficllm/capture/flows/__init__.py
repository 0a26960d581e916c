"""Frames to packets to bidirectional flows, in Zeek's words."""
