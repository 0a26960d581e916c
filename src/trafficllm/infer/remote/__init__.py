"""A model that another program serves: label probabilities over HTTP."""
