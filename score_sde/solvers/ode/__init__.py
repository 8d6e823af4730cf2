"""Solvers of the probability flow, an ordinary differential equation: they add no noise (unless η asks for it)."""
