"""What numba compiles: decoding, the flow table and its memory layout."""
