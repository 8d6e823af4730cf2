"""Saving: checkpoints, and the proof that they can be read."""
