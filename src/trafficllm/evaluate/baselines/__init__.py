"""Trees, k-NN and linear probes on the same masked records."""
