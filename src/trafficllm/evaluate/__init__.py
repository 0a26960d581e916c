"""Metrics, baselines, audits, shifts and fitting of calibration; judges any Scorer."""
