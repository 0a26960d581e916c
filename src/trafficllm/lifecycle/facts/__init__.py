"""Questions that a capture answers without a model: how many packets, who talks most, which TLS versions, when it began."""
