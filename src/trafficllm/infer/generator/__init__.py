"""A label in, flow plans out, under the codec's grammar."""
