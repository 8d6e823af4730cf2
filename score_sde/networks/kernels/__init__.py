"""Kernels: operations written for one kind of hardware."""
