"""A function of the state before each step, and two for clouds of points."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import as_pytree, pytree
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step, Wrapper

Points = Float[Array, "b n d"]


@pytree
class Hook(Wrapper):
    """x_s = `solver`'s step from function(key, x, t): for symmetries, projections, constraints.

    `function` is a pytree that is called (its arrays are traced), or any other function, which is then part of the
    program. `key` is one key, or one for each image; draw with `score_sde.solvers.noise`, so that an image does not depend
    on its batch. The last state is the solver's: a hook after it is a call.
    """

    solver: Solver
    function: Callable[[Any, Any, Any], Any]

    def __post_init__(self):
        object.__setattr__(self, "function", as_pytree(self.function))

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        x = self.function(noise.fold_in(key, 0), x, t)
        return self.solver.step(noise.fold_in(key, 1), denoise, x, t, s, carry)


def recentre(key: Keys, x: Points, t: Scalar) -> Points:
    """x − (mean over the points): where a density does not see translations, its noise does not have them either."""
    return x - jnp.mean(x, axis=1, keepdims=True)


@pytree
class RandomRigidMotion:
    """R (x − mean) + shift, with R uniform among rotations and shift ~ N(0, std² I), for each cloud of points [n, d].

    R is the Q of the QR decomposition of a normal matrix with R's diagonal positive, and det 1.

    Source: Abramson et al., Nature 630 (2024), Supplementary Algorithm 19 (std 1 Å); Stewart, SIAM J. Numer. Anal. 1980.
    """

    std: float = 1.0

    def __call__(self, key: Keys, x: Points, t: Scalar) -> Points:
        size, _, dimension = x.shape
        normal = noise.standard_normal(noise.fold_in(key, 0), jnp.zeros((size, dimension, dimension), x.dtype))
        q, r = jnp.linalg.qr(normal)
        rotation = q * jnp.sign(jnp.diagonal(r, axis1=1, axis2=2))[:, None, :]
        rotation = rotation.at[:, :, 0].multiply(jnp.sign(jnp.linalg.det(rotation))[:, None])
        shift = self.std * noise.standard_normal(noise.fold_in(key, 1), x[:, :1])
        return jax.vmap(jnp.matmul)(recentre(key, x, t), rotation.mT) + shift
