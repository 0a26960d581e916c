"""Is a capture valid: headers, lengths, checksums, TCP states."""
