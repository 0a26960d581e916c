"""Traffic bases: opened, extended with a vocabulary, described."""
