"""One training step and its parts: averages, optimizer, sharding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import density2d
from score_sde import parallel
from score_sde.experiment import Experiment
from score_sde.objectives import DenoisingScoreMatching, EDMWeighting, SlicedScoreMatching, Stratified
from score_sde.runs import weights
from score_sde.training.averages import ema_decay, update_ema
from score_sde.training.state import RAW, average_name, create_state, ema_name
from score_sde.training.step import make_train_step
from tests.independence import assert_independent


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


@pytest.mark.parametrize("half_life", [0.5, 887.0, 1_234_567.0, 1_234_568.0, 0.1 + 0.2, 1e6, 1e-5, 2**24 + 1.0])
def test_the_name_of_an_average_is_its_half_life(half_life):
    """To the last digit: the step computes with the number that the name says."""
    assert float(ema_name(half_life)) == half_life
    assert ema_name(1_234_567.0) == "1234567" and ema_name(1e6) == "1e+06"  # the latter as in older checkpoints


def small(**network) -> Experiment:
    """Points in the plane, 24 a batch, by a small MLP without dropout."""
    config = density2d.get_config("moons")
    config.data.train.num_examples = 200
    config.network.update({"width": 16, "depth": 1, **network})
    config.training.batch_size = 24
    config.ema.half_lives_kimg = (0.5,)
    return Experiment(config)


def step_of(experiment, accumulation_steps=1, objective=None):
    return make_train_step(
        experiment.run_key("train"),
        experiment.task if objective is None else dataclasses.replace(experiment.task, objective=objective),
        experiment.optimizer,
        experiment.mesh,
        batch_size=24,
        rampup_ratio=0.05,
        accumulation_steps=accumulation_steps,
    )


def trained(experiment, step, num_steps):
    """The state after some steps, and the metrics and examples of each."""
    state, history = experiment.recipe.init_state(), []
    for number in range(num_steps):
        state, *rest = step(state, parallel.shard_batch(experiment.train_batches[number], experiment.mesh))
        history.append(jax.device_get(rest))
    return state, history


@pytest.fixture(scope="module")
def plain():
    """An experiment and its step, compiled once."""
    experiment = small()
    return experiment, step_of(experiment)


OBJECTIVES = {
    "denoising": lambda sde: DenoisingScoreMatching(sde, EDMWeighting(), Stratified(1e-3)),
    "sliced": lambda sde: SlicedScoreMatching(sde, Stratified(1e-2), num_projections=2),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_accumulation_equals_the_large_batch(name):
    """Over 20 steps: loss, gradient, losses of examples and the parameters, with the times drawn over the whole batch."""
    experiment = small()
    objective = OBJECTIVES[name](experiment.sde)
    state, history = trained(experiment, step_of(experiment, objective=objective), 20)
    parts_state, parts = trained(experiment, step_of(experiment, 4, objective), 20)
    for (metrics, examples), (metrics_4, examples_4) in zip(history, parts, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), metrics, metrics_4)
        np.testing.assert_array_equal(examples["t"], examples_4["t"])
        np.testing.assert_allclose(examples["loss"], examples_4["loss"], rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state, parts_state)


class Keys(DenoisingScoreMatching):
    """Draws one normal number for each example, and tells it beside one that the key of the dropout gives."""

    def draw(self, key, batch):
        return {"drawn": jax.random.normal(key, (24,))}

    def losses(self, denoise, batch, draws):
        return jnp.zeros(24), {**draws, "dropout": jax.random.normal(denoise.dropout_key, (24,))}


def test_draws_and_dropout_of_every_step_are_independent():
    """Their means over the batch, over 2000 steps: also those of the next step, and of another seed."""
    experiment = small()
    step, seen = step_of(experiment, objective=Keys(experiment.sde)), []
    state, batch = experiment.recipe.init_state(), parallel.shard_batch(experiment.train_batches[0], experiment.mesh)
    for _ in range(2000):
        state, metrics, _ = step(state, batch)
        seen.append((metrics["drawn"], metrics["dropout"]))
    drawn, dropout = np.asarray(jax.device_get(seen)).T
    assert_independent(drawn=drawn, dropout=dropout)
    assert_independent(drawn=drawn[:-1], next_drawn=drawn[1:], next_dropout=dropout[1:])
    assert_independent(dropout=dropout[:-1], next_drawn=drawn[1:], next_dropout=dropout[1:])


def test_dropout_differs_between_parts():
    """Of equal examples with the same times and noise, each part drops something else."""
    experiment = small(dropout=0.5)
    batch = jax.tree.map(lambda rows: np.repeat(rows[:1], 24, axis=0), experiment.train_batches[0])

    class Same(DenoisingScoreMatching):
        def draw(self, key, batch):
            return {"t": jnp.full(24, 0.5), "time_weight": jnp.ones(24), "eps": jnp.ones((24, 2))}

    step = step_of(experiment, 24, Same(experiment.sde))
    # The layer after the dropout starts near zero.
    state = experiment.recipe.init_state()
    state = state._replace(params=jax.tree.map(lambda p: p + 0.1, state.params))
    _, _, examples = step(state, parallel.shard_batch(batch, experiment.mesh))
    assert len(np.unique(examples["loss"])) > 12


def test_examples_are_the_losses_of_the_batch(plain):
    _, history = trained(*plain, 1)
    metrics, examples = history[0]
    assert examples["loss"].shape == examples["t"].shape == (24,) and len(np.unique(examples["t"])) == 24
    np.testing.assert_allclose(examples["loss"].mean(), metrics["loss"], rtol=1e-6)
    assert metrics["skipped"] == 0.0 and "t" not in metrics


@pytest.mark.parametrize("accumulation_steps", [1, 4])
def test_a_step_that_is_not_finite_changes_nothing_but_its_number(plain, accumulation_steps):
    """Bit by bit: parameters, averages, moments; then training goes on. The losses name the example."""
    experiment, step = plain
    step = step if accumulation_steps == 1 else step_of(experiment, accumulation_steps)
    state, _ = trained(experiment, step, 2)
    before = jax.device_get(state)
    broken = experiment.train_batches[2] | {}
    broken["x"] = broken["x"].copy()
    broken["x"][7] = np.nan
    state, metrics, examples = step(state, parallel.shard_batch(broken, experiment.mesh))
    after = jax.device_get(state)
    assert [leaf.tobytes() for leaf in jax.tree.leaves(after[1:])] == [a.tobytes() for a in jax.tree.leaves(before[1:])]
    assert after.step == 3 and metrics["skipped"] == 1.0 and not np.isfinite(metrics["loss"])
    assert np.flatnonzero(~np.isfinite(examples["loss"])).tolist() == [7]
    state, metrics, _ = step(state, parallel.shard_batch(experiment.train_batches[3], experiment.mesh))
    assert metrics["skipped"] == 0.0 and np.isfinite(metrics["loss"]) and int(state.step) == 4
    assert not np.array_equal(jax.tree.leaves(state.params)[0], jax.tree.leaves(before.params)[0])


def test_a_gradient_that_overflows_is_skipped_too(plain):
    """Losses of about 1e30 are finite; the square of their gradient is not."""
    experiment, step = plain
    batch = experiment.train_batches[0] | {}
    batch["x"] = batch["x"] * np.float32(1e15)
    state = experiment.recipe.init_state()
    before = jax.device_get(state.params)
    state, metrics, _ = step(state, parallel.shard_batch(batch, experiment.mesh))
    assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["grad_norm"]) and metrics["skipped"] == 1.0
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state.params))


def test_bfloat16_computes_with_float32_masters():
    """Parameters, averages, moments, gradients and losses are float32 before and after a step; the products are not."""
    experiment = small(dtype="bfloat16")
    batch = jax.tree.map(jnp.asarray, experiment.train_batches[0])

    def loss(params):
        return experiment.objective(experiment.run_key("train"), experiment.denoiser.bind(params), batch)[0].mean()

    shapes = experiment.recipe.state_shapes()
    graded = jax.eval_shape(jax.value_and_grad(loss), shapes.params)
    assert ":bf16" in str(jax.make_jaxpr(loss)(shapes.params))
    after, history = trained(experiment, step_of(experiment), 1)
    assert np.isfinite(history[0][0]["loss"])
    leaves = jax.tree.leaves((shapes, graded, after))
    assert {str(leaf.dtype) for leaf in leaves} == {"float32", "int32"}


def test_the_state_is_donated(plain):
    experiment, step = plain
    state = experiment.recipe.init_state()
    step(state, parallel.shard_batch(experiment.train_batches[0], experiment.mesh))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_parts_that_a_device_cannot_make():
    with pytest.raises(ValueError, match="accumulation_steps needs to be >= 1 and divide the 24 examples.*got 5"):
        step_of(small(), 5)
    with pytest.raises(ValueError, match="accumulation_steps needs to be >= 1 and divide.*got 0"):
        step_of(small(), 0)


@pytest.mark.parametrize("half_lives", [(1000.0, 500.0), (500.0, 1000.0)])
def test_sampling_and_init_from_take_the_shortest_half_life(half_lives):
    """JAX sorts the averages of a state as texts, and a config names them in its own order."""
    assert average_name(sorted(map(ema_name, half_lives)), None) == "500"
    assert weights._average({"ema": {"half_lives_kimg": half_lives}}, None) == "500"
    assert average_name([], None) == RAW == weights._average({"ema": {"half_lives_kimg": ()}}, None)
