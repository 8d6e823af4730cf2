"""Recomputation in the backward pass: the same parameters and values, less memory."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.networks import NETWORKS, UNet
from tests.networks.build import inputs, params_for, tree_distance

KINDS = ("none", "dots", "blocks")


def network(remat, name="ddpmpp", **fields):
    """One level with attention, so that every kind of block is there."""
    sizes = {"channels": 8, "channel_multipliers": (1,), "blocks_per_level": 1, "attention_resolutions": (8,)}
    return NETWORKS[name](**{**sizes, "dropout": 0.3, "remat": remat, **fields})


def loss(net, params, x, t):
    output = net.apply({"params": params}, x, t, None, True, rngs={"dropout": jax.random.key(1)})
    return jnp.square(output).sum()


@functools.cache
def compiled(remat):
    """(program, loss, gradient): the loss trains with dropout, whose mask the recomputation has to draw again."""
    x, t = inputs((16, 8, 8, 3))
    params = params_for(network("none"), x, t)
    program = jax.jit(jax.value_and_grad(functools.partial(loss, network(remat)))).lower(params, x, t).compile()
    return program, *program(params, x, t)


def bytes_kept(net, x, t):
    """What a forward pass keeps for the backward pass, counted from shapes."""
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), x, t)["params"])
    backward = jax.eval_shape(lambda p: jax.vjp(lambda p: loss(net, p, x, t), p)[1], params)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))


@pytest.mark.slow
@pytest.mark.parametrize("remat", [pytest.param("dots", marks=pytest.mark.slow), "blocks"])
def test_values_and_gradients_are_the_same(remat):
    (_, value, grad), (_, again, grad_again) = compiled("none"), compiled(remat)
    np.testing.assert_allclose(value, again, rtol=1e-5)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grad))
    assert scale > 0.1 and tree_distance(grad, grad_again) < 1e-5 * scale


@pytest.mark.parametrize("name", ["ddpmpp", "ncsnpp"])
def test_a_checkpoint_fits_any_kind(name):
    """Names and shapes of the parameters, from the shapes alone."""
    x, t = inputs((2, 8, 8, 3))
    trees = [
        jax.eval_shape(
            functools.partial(network(remat, name, channel_multipliers=(1, 2)).init, jax.random.key(0)), x, t
        )
        for remat in KINDS
    ]
    assert trees[0] == trees[1] == trees[2]


@pytest.mark.few(1)
@pytest.mark.parametrize("channels", [8, 32])
def test_less_is_kept_for_the_backward_pass(channels):
    """What remains of "none" and of "dots", with XLA's convolutions (8 channels) and our own (32)."""
    x, t = inputs((16, 8, 8, 3))
    none, dots, blocks = (bytes_kept(network(remat, channels=channels), x, t) for remat in KINDS)
    assert blocks < 0.75 * dots < 0.75 * 0.75 * none


def test_dots_keeps_our_own_convolutions_too():
    """As much as of XLA's, which "highest" asks for; a policy that knows only those computes ours again."""
    net, x = network("dots", channels=32), inputs((16, 8, 8, 3))
    ours = bytes_kept(net, *x)
    with jax.default_matmul_precision("highest"):
        assert 0.99 < ours / bytes_kept(net, *x) < 1.01


@pytest.mark.slow
@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="XLA's CPU compiler did not order this for memory before")
def test_the_compiled_program_takes_less_memory():
    none, dots, blocks = (compiled(remat)[0].memory_analysis().temp_size_in_bytes for remat in KINDS)
    assert blocks < 0.9 * dots < 0.9 * 0.9 * none


def test_errors():
    with pytest.raises(ValueError, match=r"UNet needs remat to be one of none, blocks, dots, got 'all'"):
        UNet(remat="all")
