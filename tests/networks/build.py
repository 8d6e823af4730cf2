"""Small networks with parameters far from zero, so that every layer affects the output."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.networks import UNet

TINY = {"channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1, "attention_resolutions": (4,)}


def tiny(**fields):
    """A U-Net for 8 × 8 images, without dropout."""
    return UNet(**{**TINY, "dropout": 0.0, **fields})


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def inputs(shape=(3, 8, 8, 3)):
    return normal(1, shape), jnp.linspace(1.0, 900.0, shape[0])


def params_for(net, x, noise_label, condition=None):
    """Normal parameters of variance 1 / fan_in, from the shapes alone (an initializer would have to be compiled)."""
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: net.init(key, x, noise_label, condition)["params"])
    leaves, treedef = jax.tree.flatten(shapes)
    drawn = [normal(i, s.shape) / np.sqrt(np.prod(s.shape[:-1], dtype=np.float32)) for i, s in enumerate(leaves)]
    return jax.tree.unflatten(treedef, drawn)


@functools.partial(jax.jit, static_argnames=("net", "train"))
def apply(net, params, *args, train=False, rngs=None):
    """One compilation per network and shape."""
    return net.apply({"params": params}, *args, train=train, rngs=rngs)


def tree_distance(a, b):
    return max(float(jnp.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def share_beyond_bfloat16(y):
    """The share of float32 numbers that bfloat16 cannot hold: about 1, or 0 where they were rounded on the way."""
    return float(jnp.mean(y != y.astype(jnp.bfloat16).astype(jnp.float32)))
