"""Wrappers: each holds a solver and adds something to its steps."""
