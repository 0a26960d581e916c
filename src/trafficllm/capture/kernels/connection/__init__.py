"""Connections as Zeek sees them: one endpoint's byte stream, TCP, SCTP."""
