"""The whole path on bundled captures."""
