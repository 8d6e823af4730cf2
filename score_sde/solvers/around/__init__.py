"""Wrappers: each holds a solver and adds something around its steps."""
