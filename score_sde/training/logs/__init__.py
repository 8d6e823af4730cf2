"""Logs: metrics, progress, the stages of a run."""
