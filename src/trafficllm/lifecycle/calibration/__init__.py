"""Calibration across captures, and readouts that have learnt all of them."""
