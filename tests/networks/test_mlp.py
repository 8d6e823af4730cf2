import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.networks import MLP, NETWORKS
from tests.independence import assert_all_independent, assert_independent
from tests.networks.build import apply, inputs, params_for, share_beyond_bfloat16


@pytest.mark.smoke
def test_mlp_is_its_formula():
    net, (x, t) = NETWORKS["mlp"](width=6, depth=2, activation="tanh"), inputs((4, 2))
    params = params_for(net, x, t)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def linear(name, h, p=p):
        return h @ p[name]["kernel"] + p[name]["bias"]

    def swish(h):
        return h / (1 + np.exp(-h))

    angle = np.asarray(t, np.float64)[:, None] * 10_000.0 ** -(np.arange(3) / 2)
    emb = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    emb = swish(linear("dense_1", swish(linear("dense_0", emb, p["embedding"])), p["embedding"]))
    h = linear("input", np.asarray(x, np.float64))
    for i in range(2):
        r = np.tanh(linear(f"block_{i}_in", np.tanh(h)) + linear(f"block_{i}_embedding", emb))
        h = h + linear(f"block_{i}_out", r)
    np.testing.assert_allclose(apply(net, params, x, t), linear("output", np.tanh(h)), atol=1e-4)


def test_starts_near_zero_in_float32():
    net, (x, t) = MLP(width=16), inputs((3, 5))
    params = net.init(jax.random.key(0), x, t)["params"]
    assert 0 < jnp.abs(apply(net, params, x, t)).max() < 1e-3
    net = MLP(width=16, dtype="bfloat16", out_features=7)
    y = apply(net, params_for(net, x, t), x, t)
    assert (y.shape, y.dtype) == ((3, 7), jnp.float32) and share_beyond_bfloat16(y) > 0.9


def test_each_layer_and_each_example_drops_and_starts_on_its_own():
    """The masks of two layers over 2000 examples, and the first weights of the layers of one shape."""
    net, (x, t) = MLP(width=6, depth=2, dropout=0.5), inputs((2000, 2))
    rngs, dropped = {"dropout": jax.random.key(0)}, lambda module, _: type(module).__name__ == "Dropout"
    params = params_for(net, x, t)
    _, seen = net.apply({"params": params}, x, t, train=True, rngs=rngs, capture_intermediates=dropped)
    masks = [np.asarray(mask) == 0 for mask in jax.tree.leaves(seen)]
    assert [mask.shape for mask in masks] == [(2000, 6)] * 2
    assert_all_independent(np.concatenate(masks, axis=1))
    net = MLP(width=64, depth=2)
    kernels = [p for p in jax.tree.leaves(net.init(jax.random.key(0), x[:1], t[:1])) if p.shape == (64, 64)]
    assert len(kernels) >= 4
    assert_independent(**{str(i): kernel.ravel() for i, kernel in enumerate(kernels)})


def test_dropout_acts_in_training_only():
    net, (x, t) = MLP(width=16, dropout=0.5), inputs((3, 2))
    params = params_for(net, x, t)
    y = apply(net, params, x, t)
    np.testing.assert_array_equal(y, apply(net.clone(dropout=0.0), params, x, t))
    assert jnp.abs(apply(net, params, x, t, train=True, rngs={"dropout": jax.random.key(0)}) - y).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation": "swich"}, "MLP needs activation to be one of swish, gelu, relu, softplus, tanh, got 'swich'"),
        ({"width": 0}, "width >= 1"),
        ({"depth": 0}, "depth >= 1"),
        ({"out_features": 0}, "out_features >= 1"),
        ({"noise_embedding": "none"}, "noise_embedding to be one of"),
    ],
)
def test_impossible_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        MLP(**fields)


def test_impossible_inputs():
    with pytest.raises(ValueError, match=r"MLP needs points \[b, d\], got \(1, 4, 4, 3\); use UNet"):
        MLP().init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), jnp.zeros(1))


def test_features_start_as_large_as_the_points():
    """However few coordinates there are: with less, a network of many features sits at F = 0 for thousands of steps."""
    net, (x, t) = MLP(width=512, depth=1), inputs((4, 2))
    kernel = net.init(jax.random.key(0), x, t)["params"]["input"]["kernel"]
    assert abs(float((kernel**2).mean()) * 2 - 1) < 0.1
