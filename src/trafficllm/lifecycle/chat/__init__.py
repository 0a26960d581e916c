"""Questions about captures in sequence: each is answered with what the ones before were about."""
