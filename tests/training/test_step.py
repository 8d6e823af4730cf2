"""One training step and its parts: averages, optimizer, sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde.training.ema import ema_decay, update_ema
from score_sde.training.optimizers import build_optimizer, learning_rate_schedule
from score_sde.training.state import create_state, ema_name


@pytest.fixture(autouse=True, scope="module")
def ordinary_promotion():
    """Optax counts steps in integers and raises floats to them, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_an_average_halves_a_difference_in_its_half_life():
    """After h thousand images at parameters 1, an average that started at 0 is 1/2."""
    average = jnp.zeros(())
    for step in range(1, 101):
        decay = ema_decay(jnp.asarray(step), 100, 10.0, None)
        average = update_ema(average, jnp.ones(()), decay)
    np.testing.assert_allclose(average, 0.5, rtol=1e-5)


def test_the_ramp_up_bounds_the_half_life():
    """At step n of 100 images the half-life is at most ratio · 100 n images."""
    decay = ema_decay(jnp.asarray(20), 100, 1e9, 0.05)
    np.testing.assert_allclose(decay, 0.5 ** (100 / (0.05 * 2000)), rtol=1e-6)
    assert ema_decay(jnp.asarray(10**9), 128, 887.0, 0.05) == ema_decay(jnp.asarray(1), 128, 887.0, None)
    np.testing.assert_allclose(ema_decay(jnp.asarray(1), 128, 887.0, None), 0.9999, rtol=1e-6)  # 2021's decay


def test_names_of_averages():
    params = {"w": jnp.ones(3)}
    state = create_state(params, optax.adam(1e-3), (0.5, 500.0, 2000.0))
    assert list(state.ema) == ["0.5", "500", "2000"] == [ema_name(h) for h in (0.5, 500.0, 2000.0)]
    assert state.ema["500"]["w"] is not params["w"]


def test_schedules():
    constant = learning_rate_schedule(1.0, "constant", warmup_steps=10)
    np.testing.assert_allclose([constant(0), constant(4), constant(9), constant(1000)], [0.1, 0.5, 1.0, 1.0], rtol=1e-6)
    cosine = learning_rate_schedule(2.0, "cosine", decay_steps=100, final_fraction=0.1)
    np.testing.assert_allclose([cosine(0), cosine(50), cosine(100)], [2.0, 1.1, 0.2], rtol=1e-6)
    root = learning_rate_schedule(1.0, "inverse_sqrt", decay_steps=100)
    np.testing.assert_allclose([root(50), root(400)], [1.0, 0.5], rtol=1e-6)


def test_accumulation_is_the_update_of_the_mean_gradient():
    params = {"w": jnp.array([1.0, -2.0])}
    gradients = [{"w": jnp.array([0.1, 0.3])}, {"w": jnp.array([0.5, -0.1])}]
    accumulated = build_optimizer(learning_rate=0.1, clip_norm=None, accumulation_steps=2)
    state, now = accumulated.init(params), params
    for gradient in gradients:
        updates, state = accumulated.update(gradient, state, now)
        now = optax.apply_updates(now, updates)
    at_once = build_optimizer(learning_rate=0.1, clip_norm=None)
    updates, _ = at_once.update({"w": jnp.array([0.3, 0.1])}, at_once.init(params), params)
    np.testing.assert_allclose(now["w"], params["w"] + updates["w"], rtol=1e-6)


def test_clipping_bounds_the_norm():
    optimizer = build_optimizer("sgd", learning_rate=1.0, clip_norm=1.0)
    params = {"w": jnp.zeros(2)}
    updates, _ = optimizer.update({"w": jnp.array([30.0, 40.0])}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.6, -0.8], rtol=1e-6)


def test_optimizer_errors():
    with pytest.raises(ValueError, match="optimizer.name needs one of .*adam.*got 'adma'"):
        build_optimizer("adma")
    with pytest.raises(ValueError, match="accumulation_steps needs to be >= 1, got 0"):
        build_optimizer(accumulation_steps=0)
    with pytest.raises(ValueError, match="optimizer.schedule needs one of"):
        build_optimizer(schedule={"schedule": "linear"})
    with pytest.raises(ValueError, match="'cosine' needs decay_steps >= 1"):
        build_optimizer(schedule={"schedule": "cosine"})
    assert jax.devices()
