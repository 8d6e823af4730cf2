"""Evaluation: it measures a run or a folder of images against a reference, and adds one line to a ledger."""
