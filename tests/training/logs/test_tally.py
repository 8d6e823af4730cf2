"""Means of metrics over steps, the same through a checkpoint."""

import json

import jax.numpy as jnp
import numpy as np

from score_sde.training.logs.tally import Tally


def metrics(number, skipped=0.0):
    loss = float("nan") if skipped else 0.1 * number + 0.01
    rate = {"learning_rate": jnp.float32(number / 16)}
    return {"loss": jnp.float32(loss), "grad_norm": jnp.float32(3 * loss), "skipped": jnp.float32(skipped)} | rate


def test_the_mean_of_the_steps_since_the_last_line():
    tally = Tally()
    for number in (1, 2, 3):
        tally.add(metrics(number))
    line = tally.take()
    np.testing.assert_allclose(line["loss"], 0.21, rtol=1e-6)
    assert line["learning_rate"] == 3 / 16  # of the last step, no mean
    tally.add(metrics(7))
    alone = {"loss": float(np.float32(0.71)), "grad_norm": float(np.float32(3 * 0.71)), "learning_rate": 7 / 16}
    assert tally.take() == alone


def test_the_same_bits_through_a_checkpoint_at_every_step():
    """The last step is a skipped one, so that the rate is that of an earlier step."""
    whole = Tally()
    for number in range(18):
        whole.add(metrics(number, skipped=number % 7 == 3))
    cut = Tally()
    for number in range(18):
        cut.add(metrics(number, skipped=number % 7 == 3))
        cut = Tally(json.loads(json.dumps(cut.saved())))
    assert whole.take() == cut.take()


def test_skipped_steps_count_and_spoil_no_mean():
    tally = Tally()
    for number in (1, 2, 3):
        tally.add(metrics(number, skipped=number == 2))
    line = tally.take()
    np.testing.assert_allclose(line["loss"], 0.21, rtol=1e-6)
    assert line["skipped"] == 1
    tally.add(metrics(1, skipped=1.0))
    assert tally.take() == {"skipped": 1}
