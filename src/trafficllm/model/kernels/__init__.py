"""What a small Llama's forward computes outside its products of matrices, as machine code for this processor."""

LANES = 16
"""Numbers of a vector in the code."""
