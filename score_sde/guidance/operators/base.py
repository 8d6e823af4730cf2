"""The operators of inverse problems y = A(x0) + σ_y n.

Linear operators have an adjoint, and some have more known structure. An operator works on a batch,
[b, *shape] -> [b, *m], image by image. `shape` is always the shape of one image. No operator stores
a matrix of the size of A, except `Matrix`, which is for small problems.
"""

import abc
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from score_sde.internal.broadcast import expand_like
from score_sde.internal.per_example import per_example
from score_sde.sdes.base import Time

Shape = tuple[int, ...]
Images = Float[Array, "b *shape"]
Measured = Float[Array, "b *m"]
Count = Int[Array, ""] | int  # a setting: traced, where it is an argument of a program
Number = Float[Array, ""] | float
Coordinates = Shaped[Array, "b *k"]  # real or complex


class Operator(abc.ABC):
    """A: the measurement of x0, before the noise. An operator is a `@pytree` dataclass with `__call__`."""

    @abc.abstractmethod
    def __call__(self, x: Images) -> Measured:
        """A(x)."""

    def check(self, shape: Shape) -> None:  # noqa: B027  most measure any image
        """Raises ValueError where images of this shape cannot be measured."""

    def measured_shape(self, shape: Shape) -> Shape:
        """The shape of the measurement of one image.

        Raises: ValueError where images of this shape cannot be measured.
        """
        self.check(shape)
        return tuple(jax.eval_shape(self, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).shape[1:])


class Linear(Operator):
    """A linear operator. Its adjoint is JAX's transpose, and its pseudo-inverse is solved for.

    A subclass overrides them where it knows a closed form.
    """

    def adjoint(self, y: Measured, shape: Shape) -> Images:
        """Aᵀ y."""
        x = jax.ShapeDtypeStruct((y.shape[0], *shape), y.dtype)
        transposed: Images = jax.linear_transpose(self, x)(y)[0]
        return transposed

    def damped_inverse(
        self,
        y: Measured,
        shape: Shape,
        gain: Time = 1.0,
        damping: Time = 0.0,
        max_steps: Count = 100,
        tolerance: Number = 1e-6,
    ) -> Images:
        """Aᵀ (gain A Aᵀ + damping I)⁻¹ y. `gain` and `damping` are one number, or one for each image.

        It is solved by conjugate gradients, which stop at the residual `tolerance` · ‖y‖, or after
        `max_steps`.
        """
        gain, damping = expand_like(gain, y), expand_like(damping, y)
        inner = conjugate_gradients(
            lambda v: gain * self(self.adjoint(v, shape)) + damping * v, y, max_steps, tolerance
        )
        return self.adjoint(inner, shape)

    def pseudo_inverse(self, y: Measured, shape: Shape) -> Images:
        """A⁺ y = Aᵀ (A Aᵀ)⁺ y."""
        return self.damped_inverse(y, shape)


class Decomposed(Linear):
    """A linear operator with a known singular value decomposition A = U Σ Vᵀ, in coordinates [b, *k] of x.

    V is unitary, so white noise is white in these coordinates too. A coordinate with the singular
    value 0 is not measured.
    """

    @abc.abstractmethod
    def singular_values(self, shape: Shape) -> Float[Array, "*k"]:
        """Σ, one number for each coordinate of an image, or an array that can be broadcast to them."""

    @abc.abstractmethod
    def to_coordinates(self, x: Images) -> Coordinates:
        """Vᵀ x."""

    @abc.abstractmethod
    def from_coordinates(self, z: Coordinates, shape: Shape) -> Images:
        """V z."""

    @abc.abstractmethod
    def measured_coordinates(self, y: Measured, shape: Shape) -> Coordinates:
        """Uᵀ y, where each number stands at the coordinate of x that it measures; 0 elsewhere."""

    def damped_inverse(
        self,
        y: Measured,
        shape: Shape,
        gain: Time = 1.0,
        damping: Time = 0.0,
        max_steps: Count = 100,
        tolerance: Number = 1e-6,
    ) -> Images:
        """V Σ (gain Σ² + damping)⁻¹ Uᵀ y. `max_steps` is not used.

        Values of Σ below `tolerance` times the largest count as 0.
        """
        z = self.measured_coordinates(y, shape)
        values = measured_values(self, shape, tolerance)[None].astype(y.dtype)
        denominator = expand_like(gain, z) * values**2 + expand_like(damping, z)
        weights = jnp.where(values > 0, values / jnp.where(values > 0, denominator, 1), 0)
        return self.from_coordinates(weights.astype(z.dtype) * z, shape)


def measured_values(operator: Decomposed, shape: Shape, tolerance: Number = 1e-6) -> Float[Array, "*k"]:
    """The singular values. Values below `tolerance` times the largest, which are rounding errors, are set to 0."""
    values = operator.singular_values(shape)
    return jnp.where(values > tolerance * jnp.max(values), values, 0)


def conjugate_gradients(
    matrix: Callable[[Measured], Measured],
    b: Measured,
    max_steps: Count,
    tolerance: Number = 1e-6,
    least_curvature: Number = 0.0,
) -> Measured:
    """v with matrix(v) = b, image by image. `matrix` is linear, symmetric and ≥ 0 within each image.

    Each image has its own step sizes. It stops at the residual `tolerance` · ‖b‖ or after
    `max_steps`. `matrix` is called with the whole batch, as a network is. Nothing else mixes the
    images.

    The matrix of a trained network may have negative eigenvalues, where a step would have any
    length. So an image stops before a direction p with pᵀ matrix(p) <= least_curvature · pᵀp, as
    truncated Newton methods do. jax.scipy's and lineax's iterations do not stop there.

    Source: Hestenes and Stiefel, 1952; Steihaug, SIAM J. Numer. Anal. 20, 1983, for the stop.
    """

    def dot(a, b):
        return per_example(a * b)

    def solve(matrix, b):
        smallest = tolerance**2 * dot(b, b)

        def goes_on(state):
            step, *_, going = state
            return (step < max_steps) & jnp.any(going)

        def step(state):
            number, v, residual, direction, square, _ = state
            image = matrix(direction)
            curvature = dot(direction, image)
            going = (square > smallest) & (curvature > least_curvature * dot(direction, direction))
            length = jnp.where(going, square / jnp.where(going, curvature, 1), 0)
            v = v + expand_like(length, v) * direction
            residual = residual - expand_like(length, v) * image
            new = dot(residual, residual)
            ratio = jnp.where(going, new / jnp.where(going, square, 1), 0)
            direction = jnp.where(expand_like(going, v), residual + expand_like(ratio, v) * direction, direction)
            return number + 1, v, residual, direction, new, going & (new > smallest)

        start = dot(b, b)
        return jax.lax.while_loop(goes_on, step, (0, jnp.zeros_like(b), b, b, start, start > smallest))[1]

    solution: Measured = jax.lax.custom_linear_solve(matrix, b, solve, symmetric=True)
    return solution


def householder(z: Float[Array, "*rest n"], direction: Float[Array, " n"]) -> Float[Array, "*rest n"]:
    """H z over the last axis, with H the reflection that takes direction/‖direction‖ to the first unit vector.

    H is symmetric and orthogonal: its first coordinate is the component along `direction`, and it is its own inverse.

    Source: Householder, 1958.
    """
    unit = direction / jnp.linalg.norm(direction)
    first = jnp.zeros_like(unit).at[0].set(1)
    # Where −e₁ is farther than e₁, the reflection goes to −e₁, which keeps the digits of the difference.
    # The sign is restored afterwards.
    sign = jnp.where(unit[0] > 0, -1, 1).astype(unit.dtype)
    normal = unit - sign * first
    normal = (normal / jnp.linalg.norm(normal)).astype(z.dtype)
    return sign.astype(z.dtype) * (z - 2 * jnp.tensordot(z @ normal, normal, axes=0))
