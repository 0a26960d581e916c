"""Partitioned Parquet data sets: one part a capture, written by tasks of a Ray cluster, with a manifest"""
