"""Which steps stop a run, and when."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import parallel
from score_sde.training.incidents import FiniteGuard
from score_sde.training.state import TrainState


def guard(workdir, policy="stop", max_skips=100, **kwargs):
    def describe(facts):
        return {**facts, "log_snr": -2 * np.log(facts["t"])}

    return FiniteGuard(policy, max_skips, workdir, describe, lambda: 40, **kwargs)


def step(guard, number, bad=False):
    loss = jnp.array([0.5, jnp.inf if bad else 0.25])
    metrics = {"loss": loss.mean(), "grad_norm": jnp.float32(1), "skipped": jnp.float32(bad)}
    guard.add(number, metrics, {"t": jnp.array([0.5, 0.25]), "loss": loss}, jnp.array([11, 12]))


def test_a_step_is_looked_at_when_the_next_begins_or_before_anything_is_saved(tmp_path):
    for look in (lambda g: step(g, 43), lambda g: g.settle()):
        stopping = guard(tmp_path)
        step(stopping, 41)
        step(stopping, 42, bad=True)
        with pytest.raises(
            FloatingPointError, match=r"of step 42 is not finite \(loss Infinity.*checkpoint is step 40"
        ):
            look(stopping)
    report = json.loads((tmp_path / "incidents" / "step_00000042.json").read_text())
    assert report["examples"] == [
        {"index": 12, "t": 0.25, "log_snr": pytest.approx(2.7725887), "loss": "Infinity"},
        {"index": 11, "t": 0.5, "log_snr": pytest.approx(1.3862944), "loss": 0.5},
    ]
    assert (report["step"], report["last_checkpoint"], report["grad_norm"]) == (42, 40, 1.0)


def test_skips_in_a_row_are_counted_through_a_resume(tmp_path):
    skipping = guard(tmp_path, "skip", max_skips=3)
    for number, bad in enumerate((True, True, True, False, True, True), start=1):
        step(skipping, number, bad)
    skipping.settle()
    assert skipping.in_a_row == 2 and not (tmp_path / "incidents").exists()
    resumed = guard(tmp_path, "skip", max_skips=3, in_a_row=skipping.in_a_row)
    step(resumed, 7, bad=True)
    resumed.settle()
    step(resumed, 8, bad=True)
    with pytest.raises(FloatingPointError, match="of step 8 is not finite .* and 4 steps in a row were skipped"):
        resumed.settle()


def test_another_policy_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"training.nonfinite needs one of \('stop', 'skip'\).*got 'ignore' and 100"):
        guard(tmp_path, "ignore")


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    mesh = parallel.make_mesh(fsdp=len(jax.devices()))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    good = np.zeros((8 * len(jax.devices()), 2), np.float32)
    bad = good.copy()
    bad[-1, -1] = np.nan  # on the last device
    for params, average in ((bad, good), (good, bad)):
        ema = {"1": {"w": jax.device_put(average, rows)}}
        state = TrainState(jnp.asarray(41), {"w": jax.device_put(params, rows)}, ema, ())
        with pytest.raises(FloatingPointError, match=r"after step 41 is not finite, .* checkpoint is step 40"):
            guard(tmp_path).check_parameters(state)
    everywhere = {"w": jax.device_put(good, parallel.replicated(mesh))}
    guard(tmp_path).check_parameters(TrainState(jnp.asarray(41), everywhere, {"1": everywhere}, ()))
