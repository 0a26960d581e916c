"""Leaving sources out: folds over sources, learners with the same masks and weights, and what their scores say."""
