"""Evaluation: a run or a folder of images becomes numbers, against a reference, in one line of a ledger."""
