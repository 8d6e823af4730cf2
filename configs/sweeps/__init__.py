"""Sweeps: what `python -m experiments.sweep --sweep=…` runs."""
