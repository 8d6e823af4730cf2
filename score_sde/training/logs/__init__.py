"""Logs: metrics, progress and the stages of a run."""
