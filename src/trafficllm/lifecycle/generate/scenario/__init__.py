"""Scenarios: a small network, its everyday traffic, labelled events, and the answers to them."""
