"""The training step as a whole, on losses whose gradients are known by hand: what it clips, averages, counts and skips."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import density2d
from score_sde import parallel
from score_sde.experiment import Experiment
from score_sde.objectives import Objective
from score_sde.tasks import Denoising
from score_sde.training.optimizers import OPTIMIZERS, build_optimizer, updates_done
from score_sde.training.state import create_state
from score_sde.training.step import make_train_step

BATCH = 8
SLOPE = 100.0


@pytest.fixture(autouse=True, scope="module")
def ordinary_promotion():
    """Optax counts steps in integers and raises floats to them, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


class Known(Objective):
    """A loss of the parameters and the first number of an example, without the network."""

    def draw(self, key, batch):
        return {"t": jnp.ones(batch["x"].shape[0])}

    def losses(self, denoise, batch, draws):
        leaves = [leaf.reshape(1, -1) for leaf in jax.tree.leaves(denoise.params)]
        return self.loss(jnp.concatenate(leaves, axis=1), batch["x"][:, :1]), draws


class Slope(Known):
    """⟨g, params⟩ with ‖g‖ = 100, whatever the (finite) example."""

    def loss(self, params, x):
        return jnp.sum(params) * SLOPE / math.sqrt(params.size) + 0.0 * x[:, 0]


class Pull(Known):
    """‖params − x‖²/2, of another gradient for each example."""

    def loss(self, params, x):
        return 0.5 * jnp.sum((params - x) ** 2, axis=1)


@pytest.fixture(scope="module")
def experiment():
    config = density2d.get_config("moons")
    config.network.update({"width": 4, "depth": 1})
    config.mesh.num_devices = 1
    return Experiment(config)


def batch(number=0, broken=False):
    x = np.random.default_rng(number).normal(size=(BATCH, 2)).astype(np.float32)
    x[3] = np.nan if broken else x[3]
    return {"x": x, "index": np.arange(BATCH, dtype=np.int32), "condition": {}}


def run(experiment, objective, optimizer, batches, accumulation_steps=1, half_lives=(), rampup_ratio=None):
    """The states before the first and after each batch, on the host, and the metrics of each."""
    step = make_train_step(
        experiment.run_key("train"),
        Denoising(experiment.denoiser, objective),
        optimizer,
        experiment.mesh,
        batch_size=BATCH,
        rampup_ratio=rampup_ratio,
        accumulation_steps=accumulation_steps,
    )
    shapes, rng = experiment.recipe.state_shapes().params, np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
    state = create_state(params, optimizer, half_lives)
    states, history = [jax.device_get(state)], []
    for rows in batches:
        state, metrics, _ = step(state, parallel.shard_batch(rows, experiment.mesh))
        states.append(jax.device_get(state))
        history.append({name: float(value) for name, value in metrics.items()})
    return states, history


def moves(states):
    """‖params after − params before‖ of each step."""
    flat = [np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state.params)]) for state in states]
    return [float(np.linalg.norm(b - a)) for a, b in itertools.pairwise(flat)]


def test_the_clip_acts_on_the_gradient(experiment):
    """A gradient of norm 100, clipped to 1, times 0.1: the clip of an update of norm 10 would move by 1."""
    for clip_norm, moved in ((1.0, 0.1), (None, 10.0), (20.0, 2.0)):
        optimizer = build_optimizer("sgd", learning_rate=0.1, clip_norm=clip_norm)
        states, history = run(experiment, Slope(), optimizer, [batch()])
        np.testing.assert_allclose(moves(states), [moved], rtol=1e-4)
        np.testing.assert_allclose(history[0]["grad_norm"], SLOPE, rtol=1e-5)  # as it was before


def test_the_rate_of_each_step(experiment):
    """The first update has the schedule at 0; a skipped batch takes no rate; what is logged is what was applied."""
    schedule = {"schedule": "cosine", "warmup_steps": 2, "decay_steps": 8}
    optimizer = build_optimizer("sgd", learning_rate=0.1, clip_norm=1.0, schedule=schedule)
    by_hand = [0.1 * math.cos(math.pi / 16 * n) ** 2 * min((n + 1) / 2, 1.0) for n in range(5)]
    batches = [batch(0), batch(1), batch(2, broken=True), batch(3), batch(4), batch(5)]
    for accumulation_steps in (1, 4):
        states, history = run(experiment, Slope(), optimizer, batches, accumulation_steps)
        applied = [move for n, move in enumerate(moves(states)) if n != 2]
        np.testing.assert_allclose(np.array(applied) / applied[1], np.array(by_hand) / by_hand[1], rtol=1e-4)
        logged = [metrics["learning_rate"] for n, metrics in enumerate(history) if n != 2]
        np.testing.assert_allclose(logged, by_hand, rtol=1e-5)
        assert [metrics["skipped"] for metrics in history] == [0, 0, 1, 0, 0, 0]
        assert int(states[-1].step) == 6 and int(updates_done(jax.device_put(states[-1].opt_state))) == 5


def test_a_skipped_step_counts_and_changes_nothing_else(experiment):
    """With a running average, momentum and a warm-up that would all have moved."""
    optimizer = build_optimizer("adamw", learning_rate=0.1, schedule={"warmup_steps": 10})
    batches = [batch(0), batch(1, broken=True), batch(2)]
    states, _ = run(experiment, Pull(), optimizer, batches, half_lives=(0.01,))
    before, after = states[1], states[2]
    jax.tree.map(np.testing.assert_array_equal, before[1:], after[1:])
    assert (int(before.step), int(after.step)) == (1, 2)
    assert moves(states)[1] == 0 and moves(states)[2] > 0


def test_the_averages_follow_the_parameters_that_are_returned(experiment):
    """a_n = β_n a_{n−1} + (1 − β_n) p_n with β_n = (1/2)^(B / min(half-life, ramp-up · n B)), n counted from 1."""
    optimizer = build_optimizer("sgd", learning_rate=0.3, clip_norm=None)
    half_lives, ratio = (0.01, 0.03, 100.0), 0.9  # 10 and 30 images, reached at steps 2 and 5, and never
    batches = [batch(n) for n in range(7)]
    states, _ = run(experiment, Pull(), optimizer, batches, half_lives=half_lives, rampup_ratio=ratio)
    for half_life in half_lives:
        average = states[0].params
        for n, state in enumerate(states[1:], start=1):
            decay = 0.5 ** (BATCH / min(1000 * half_life, ratio * n * BATCH))
            average = jax.tree.map(lambda a, p, decay=decay: decay * a + (1 - decay) * p, average, state.params)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
                state.ema[f"{half_life:g}"],
                average,
            )


def test_the_ramp_up_counts_skipped_steps(experiment):
    """It is of the images that were seen, which `step` counts, as `ema_decay` says."""
    optimizer = build_optimizer("sgd", learning_rate=0.3, clip_norm=None)
    batches = [batch(0), batch(1, broken=True), batch(2)]
    states, _ = run(experiment, Pull(), optimizer, batches, half_lives=(100.0,), rampup_ratio=0.9)
    decay = 0.5 ** (1 / (0.9 * 3))
    average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, states[2].ema["100"], states[3].params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), states[3].ema["100"], average)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_accumulation_equals_the_large_batch_for_every_optimizer(name, experiment):
    """Parameters, averages and the optimizer's state: one update a batch, of the mean gradient over all of it."""
    fields = {"weight_decay": 0.1} if name in ("adamw", "lion") else {}
    optimizer = build_optimizer(name, learning_rate=0.1, schedule={"warmup_steps": 3}, clip_norm=None, **fields)
    batches = [batch(n) for n in range(4)]
    whole, metrics = run(experiment, Pull(), optimizer, batches, 1, (0.01,))
    parts, metrics_of_parts = run(experiment, Pull(), optimizer, batches, 4, (0.01,))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), whole[-1], parts[-1])
    for a, b in zip(metrics, metrics_of_parts, strict=True):
        np.testing.assert_allclose([a[name] for name in a], [b[name] for name in a], rtol=1e-5)
    assert min(moves(whole)) > 0
