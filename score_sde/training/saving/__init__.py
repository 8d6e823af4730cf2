"""Saving: checkpoints, and checks that they can be read."""
