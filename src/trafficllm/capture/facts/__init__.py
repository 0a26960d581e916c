"""What the first payload bytes of a flow say: TLS, DNS, HTTP."""
