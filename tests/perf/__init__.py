"""Benchmarks: measured as ratios in one run, never asserted."""
