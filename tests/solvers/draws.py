"""Noise of a test's choice in place of every SDE's."""

import jax.numpy as jnp

from score_sde.sdes import SDE


def replace_noise(patch, draw):
    """Until `patch` is undone, every draw of noise like x is draw(key, x), where only the shape and dtype of x matter.

    A program that was compiled before keeps its noise.
    """
    patch.setattr(SDE, "noise", lambda sde, key, shape, dtype=float: draw(key, jnp.zeros(shape, dtype)))
