"""A function of the state before each step, with two such functions for clouds of points."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.per_example import Weight, weighted
from score_sde.internal.pytree import as_pytree, pytree
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step, Wrapper

Points = Float[Array, "b n d"]


@pytree
class Hook(Wrapper):
    """x_s = `solver`'s step from function(key, x, t): for symmetries, projections and constraints.

    The function runs before each step. The last state is the solver's; to change it, call the
    function on the result.

    Args:
      solver: the solver of the steps.
      function: a callable pytree, whose arrays are traced, or any other function, which becomes a
        constant of the program. Its `key` is one key, or one key for each image. Draw with
        `score_sde.solvers.noise`, so that an image does not depend on its batch.
    """

    solver: Solver
    function: Callable[[Any, Any, Any], Any]

    def __post_init__(self):
        object.__setattr__(self, "function", as_pytree(self.function))

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        x = self.function(noise.fold_in(key, 0), x, t)
        return self.solver.step(noise.fold_in(key, 1), denoise, x, t, s, carry)


def recentre(key: Keys, x: Points, t: Scalar, weight: Weight = None) -> Points:
    """x − (mean over the points): for densities that are invariant under translations.

    The noise of such a density must not translate the points either.

    Args:
      weight: [b, n], 0 where a point is padding, which does not count in the mean. `Hook` takes
        `jax.tree_util.Partial(recentre, weight=weight)`.
    """
    if weight is None:
        return x - jnp.mean(x, axis=1, keepdims=True)
    number = jnp.maximum(jnp.sum(weight.astype(x.dtype), axis=1), 1)[:, None, None]
    return x - jnp.sum(weighted(x, weight), axis=1, keepdims=True) / number


@pytree
class RandomRigidMotion:
    """R (x − mean) + shift for each cloud of points [n, d], with R a uniform random rotation.

    The shift is N(0, std² I). Points with the weight 0 in `weight` [b, n] are padding, and do not count in the mean.

    Source: Abramson et al., Nature 630 (2024), Supplementary Algorithm 19 (std 1 Å); Stewart, SIAM
      J. Numer. Anal. 1980.
    """

    std: float = 1.0
    weight: Weight = None

    def __call__(self, key: Keys, x: Points, t: Scalar) -> Points:
        size, _, dimension = x.shape
        normal = noise.standard_normal(noise.fold_in(key, 0), jnp.zeros((size, dimension, dimension), x.dtype))
        # The Q of a normal matrix is uniform among orthogonal matrices if the diagonal of R is
        # positive. The sign of one column then makes det Q = 1, a rotation.
        q, r = jnp.linalg.qr(normal)
        rotation = q * jnp.sign(jnp.diagonal(r, axis1=1, axis2=2))[:, None, :]
        rotation = rotation.at[:, :, 0].multiply(jnp.sign(jnp.linalg.det(rotation))[:, None])
        shift = self.std * noise.standard_normal(noise.fold_in(key, 1), x[:, :1])
        return jax.vmap(jnp.matmul)(recentre(key, x, t, self.weight), rotation.mT) + shift
