"""Work that the first of several processes does for all."""

import errno

import jax
import pytest
from jax.experimental import multihost_utils

from score_sde.training.agreement import on_first_process


def full():
    raise OSError(errno.ENOSPC, "No space left on device", "runs/metrics.jsonl")


def test_an_error_of_the_first_process_is_raised_on_all(monkeypatch):
    """On the first as it was, with its number and file, by which it is told apart; on others with its text."""
    sent = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda value: sent.append(value) or sent[0])
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with pytest.raises(OSError, match="No space left") as first:
        on_first_process(full)
    assert first.value.errno == errno.ENOSPC and first.value.filename == "runs/metrics.jsonl"
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(OSError, match="No space left on device: 'runs/metrics.jsonl'"):
        on_first_process(lambda: pytest.fail("only the first process calls it"))
    assert len(sent) == 2
