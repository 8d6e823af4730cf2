"""Solvers of the reverse-time stochastic differential equation: they add noise at each step."""
