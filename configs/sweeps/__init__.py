"""Sweeps: what `score-sde sweep --sweep=…` runs."""
