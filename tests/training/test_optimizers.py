"""The optimizer: its schedule, what it clips, what decays, and what is never trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde.config import Schedule
from score_sde.networks import MLP, JiT, UNet, UViT
from score_sde.parallel import names_of
from score_sde.training.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    is_decayed,
    learning_rate_schedule,
    rate_warnings,
    updates_done,
)

DECAYING = ("adamw", "lion")


@pytest.fixture(autouse=True, scope="module")
def ordinary_promotion():
    """Optax counts steps in integers and raises floats to them, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_schedules():
    constant = learning_rate_schedule(1.0, Schedule(schedule="constant", warmup_steps=10))
    np.testing.assert_allclose([constant(0), constant(4), constant(9), constant(1000)], [0.1, 0.5, 1.0, 1.0], rtol=1e-6)
    cosine = learning_rate_schedule(2.0, Schedule(schedule="cosine", decay_steps=100, final_fraction=0.1))
    np.testing.assert_allclose([cosine(0), cosine(50), cosine(100)], [2.0, 1.1, 0.2], rtol=1e-6)
    root = learning_rate_schedule(1.0, Schedule(schedule="inverse_sqrt", decay_steps=100))
    np.testing.assert_allclose([root(50), root(400)], [1.0, 0.5], rtol=1e-6)


def warnings_of(done, remaining, **fields):
    schedule = Schedule(**fields)
    return rate_warnings(learning_rate_schedule(1e-3, schedule), schedule, done, remaining)


def test_a_rate_of_0_is_told():
    """An error where all of the training would do nothing, else where it begins to."""
    cosine = {"schedule": "cosine", "decay_steps": 100}
    assert warnings_of(0, 100, **cosine) == [] == warnings_of(99, 1, **cosine) == warnings_of(100, 0, **cosine)
    message = "The last 50 of 120 updates will change nothing: the learning rate is 0 from update 100 on"
    assert warnings_of(30, 120, **cosine)[0].startswith(message)
    with pytest.raises(
        ValueError, match=r"Further training would change nothing: .* from update 100 on.*decay_steps=100"
    ):
        warnings_of(100, 50, **cosine)
    assert warnings_of(100, 50, **cosine, final_fraction=0.01) == []
    assert warnings_of(10**7, 10**6) == []


def test_a_warm_up_that_never_ends_is_told():
    assert warnings_of(0, 50, warmup_steps=50) == []
    assert warnings_of(30, 20, warmup_steps=50) == []
    (told,) = warnings_of(0, 20, warmup_steps=50)
    assert "warm-up of 50 steps is longer than the training of 20: the learning rate only gets to 0.4 of" in told


def test_clipping_acts_on_the_gradient():
    """Not on the update: a gradient of norm 50, clipped to 1, times a rate of 0.1."""
    params = {"w": jnp.zeros(2)}
    for clip_norm, moved in ((1.0, [-0.06, -0.08]), (None, [-3.0, -4.0]), (100.0, [-3.0, -4.0])):
        optimizer = build_optimizer("sgd", learning_rate=0.1, clip_norm=clip_norm)
        updates, _ = optimizer.update({"w": jnp.array([30.0, 40.0])}, optimizer.init(params), params)
        np.testing.assert_allclose(updates["w"], moved, rtol=1e-6)


def paths_of(network, x):
    """name/name/… -> number of axes, of every parameter of a network."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros(1), {"label": jnp.zeros(1, int)})["params"]
    return {"/".join(names_of(path)): leaf.ndim for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]}


SMALL_JIT = JiT(patch_size=2, width=8, depth=1, num_heads=1, bottleneck=4, context_start=0, num_classes=2)
NETWORKS = {
    "mlp": (MLP(width=8, depth=1, noise_embedding="fourier", num_classes=2), (1, 2)),
    "unet": (
        UNet(
            channels=8,
            channel_multipliers=(1, 2),
            blocks_per_level=1,
            attention_resolutions=(4,),
            progressive_input="skip",
            progressive_output="residual",
            noise_embedding="fourier",
            num_classes=2,
        ),
        (1, 8, 8, 3),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_and_tables_decay_and_nothing_else(name):
    """By name, so that the rule is not tested by itself: biases, scales of norms and Fourier frequencies do not."""
    network, shape = NETWORKS[name]
    paths = paths_of(network, jnp.zeros(shape))
    decayed = {path for path, ndim in paths.items() if is_decayed(tuple(path.split("/")), ndim)}
    expected = {path for path in paths if path.endswith("/kernel") or path == "embedding/label"}
    assert decayed == expected and 0 < len(expected) < len(paths)
    assert "embedding/fourier/frequencies" in paths and any(path.endswith("/scale") for path in paths) == (
        name == "unet"
    )


@pytest.mark.parametrize(
    ("network", "name"), [(UViT(width=8, depth=1, num_heads=1, num_classes=2), "positions"), (SMALL_JIT, "context")]
)
def test_learned_positions_do_not_decay(network, name):
    """As in the published code of U-ViT."""
    paths = paths_of(network, jnp.zeros((1, 4, 4, 3)))
    kept = {path for path, ndim in paths.items() if ndim >= 2 and not is_decayed(tuple(path.split("/")), ndim)}
    assert kept == {name}


def test_biases_of_any_rank_do_not_decay():
    """As those of attention with several heads, which flax gives two axes; nor a matrix of fixed frequencies."""
    assert not is_decayed(("attention", "query", "bias"), 2) and not is_decayed(("fourier", "frequencies"), 2)
    assert not is_decayed(("norm", "gain"), 1) and not is_decayed(("temperature",), 0)


def tree():
    """Parameters of all kinds, away from 0."""
    names = {"dense": {"kernel": (3, 2), "bias": (2,)}, "norm": {"scale": (2,), "bias": (2,)}}
    names |= {"fourier": {"frequencies": (3,)}, "embedding": {"label": (3, 2)}}
    return jax.tree.map(lambda shape: jnp.full(shape, 2.0), names, is_leaf=lambda value: isinstance(value, tuple))


@pytest.mark.parametrize("name", DECAYING)
def test_decay_takes_the_published_share(name):
    """Without a gradient, p becomes (1 − rate · weight_decay) p where it decays, and stays elsewhere, bit by bit."""
    optimizer, params = build_optimizer(name, learning_rate=0.5, weight_decay=0.1, clip_norm=None), tree()
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    moved = optax.apply_updates(params, updates)
    for kept in (
        moved["dense"]["bias"],
        moved["norm"]["scale"],
        moved["norm"]["bias"],
        moved["fourier"]["frequencies"],
    ):
        np.testing.assert_array_equal(kept, 2.0)
    for decayed in (moved["dense"]["kernel"], moved["embedding"]["label"]):
        np.testing.assert_allclose(decayed, 2.0 * 0.95, rtol=1e-6)


def test_every_optimizer_that_decays_is_known():
    fields = {name: {"weight_decay": 0.1} for name in DECAYING}
    for name in OPTIMIZERS:
        optimizer, params = build_optimizer(name, learning_rate=0.5, **fields.get(name, {})), tree()
        updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
        assert np.any(updates["dense"]["kernel"] != 0) == (name in DECAYING)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_kernels_move_as_by_optax_alone(name):
    """Ten updates, bit by bit: the rules for single parameters change nothing of the others."""
    fields = {"weight_decay": 0.1} if name in DECAYING else {}
    ours, theirs = build_optimizer(name, learning_rate=0.1, clip_norm=None, **fields), OPTIMIZERS[name](0.1, **fields)
    params, plain = tree(), tree()
    state, plain_state = ours.init(params), theirs.init(plain)
    for step in range(10):
        grads = jax.tree.map(lambda p, step=step: jnp.sin(p + step), tree())
        updates, state = ours.update(grads, state, params)
        plain_updates, plain_state = theirs.update(grads, plain_state, plain)
        params, plain = optax.apply_updates(params, updates), optax.apply_updates(plain, plain_updates)
    np.testing.assert_array_equal(params["dense"]["kernel"], plain["dense"]["kernel"])
    assert np.array_equal(params["dense"]["bias"], plain["dense"]["bias"]) == (name not in DECAYING)
    assert int(updates_done(state)) == 10


@pytest.mark.few(2)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fixed_frequencies_never_change(name):
    """Whatever the optimizer, even where its update of a zero gradient is 0/0, as Adam's with eps=0."""
    fields = {"weight_decay": 0.5} if name in DECAYING else {}
    fields |= {"eps": 0.0} if name.startswith(("adam", "radam")) else {}
    optimizer, params = build_optimizer(name, learning_rate=0.5, **fields), tree()
    state = optimizer.init(params)
    for _ in range(3):
        grads = jax.tree.map(jnp.ones_like, params)
        grads["fourier"]["frequencies"] = jnp.zeros(3)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params["fourier"]["frequencies"], 2.0)
    assert not np.any(np.asarray(params["dense"]["bias"]) == 2.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_is_optax_s_own(name):
    """The structure that checkpoints hold, so that those of earlier versions can be read."""
    ours = build_optimizer(name, clip_norm=1.0).init(tree())
    theirs = optax.chain(optax.clip_by_global_norm(1.0), OPTIMIZERS[name](lambda step: 1e-3)).init(tree())
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)


def test_errors():
    with pytest.raises(ValueError, match="optimizer.name needs one of .*adam.*got 'adma'"):
        build_optimizer("adma")
    with pytest.raises(ValueError, match=r"optimizer.schedule.schedule needs one of 'constant', .* got 'linear'"):
        build_optimizer(schedule={"schedule": "linear"})
    with pytest.raises(ValueError, match="'cosine' needs decay_steps >= 1"):
        build_optimizer(schedule={"schedule": "cosine"})
    with pytest.raises(ValueError, match="final_fraction needs a number from 0 to 1, got -0.5"):
        build_optimizer(schedule={"final_fraction": -0.5})
    with pytest.raises(ValueError, match="learning_rate needs a number > 0, got inf"):
        build_optimizer(learning_rate=float("inf"))
    with pytest.raises(ValueError, match="unknown field 'mask'"):
        build_optimizer("adamw", mask=None)
