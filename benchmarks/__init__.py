"""Benchmarks of speed, as ratios measured in one run: against this machine's own limits and other libraries."""
