"""The one reduction over an example. Losses, norms and densities all sum or average the numbers of an example here."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from score_sde.internal.broadcast import expand_like

Weight = Shaped[Array, "..."] | None


def per_example(values: Float[Array, "b *shape"], weight: Weight = None, reduce: str = "sum") -> Float[Array, " b"]:
    """Σ w v over the numbers v of each example. For "mean", it is divided by Σ w.

    A point set that is smaller than its array, or a padded sequence, has the weight 0 at the empty
    places. The values there do not matter, not even NaN. An example whose weights are all 0 has the
    sum 0 and the mean 0.

    Args:
      weight: numbers or booleans for the first axes of `values`, such as [b, n] for points [b, n,
        d]. None weights all numbers equally.
      reduce: "sum" or "mean".
    Raises: ValueError for a weight whose shape is not the beginning of the shape of `values`, or
      another `reduce`.
    """
    if reduce not in ("sum", "mean"):
        raise ValueError(f'per_example needs reduce "sum" or "mean", got {reduce!r}.')
    axes = tuple(range(1, values.ndim))
    if weight is None:
        return (jnp.sum if reduce == "sum" else jnp.mean)(values, axis=axes)
    total = jnp.sum(weighted(values, weight), axis=axes)
    if reduce == "sum":
        return total
    size = jnp.sum(_like(values, weight), axis=axes)
    return total / jnp.where(size == 0, 1, size)


def weighted(values: Float[Array, "b *shape"], weight: Weight) -> Float[Array, "b *shape"]:
    """w v, and 0 where w = 0, whatever v is there. None returns `values`."""
    if weight is None:
        return values
    weight = _like(values, weight)
    return weight * jnp.where(weight == 0, 0, values)


def std(values: Float[Array, "b *shape"], weight: Weight = None) -> Float[Array, " b"]:
    """√(Σ w (v − v̄)²/Σ w) of each example, with v̄ = Σ w v/Σ w."""
    centred = values - expand_like(per_example(values, weight, "mean"), values)
    return jnp.sqrt(per_example(centred**2, weight, "mean"))


def is_finite(values: Float[Array, "b *shape"], weight: Weight = None) -> Bool[Array, " b"]:
    """Whether all numbers of each example are finite. Numbers with the weight 0 do not matter."""
    finite = jnp.isfinite(values if weight is None else weighted(values, weight))
    return jnp.all(finite, axis=tuple(range(1, values.ndim)))


def sum_of_squares(values: Float[Array, "b *shape"], weight: Weight = None) -> Float[Array, " b"]:
    """Σ w v² of each example."""
    return per_example(*_flat(values, weight, squared=True))


def norm(values: Float[Array, "b *shape"], weight: Weight = None) -> Float[Array, " b"]:
    """√(Σ w v²) of each example."""
    return jnp.sqrt(sum_of_squares(values, weight))


def root_mean_square(values: Float[Array, "b *shape"], weight: Weight = None) -> Float[Array, " b"]:
    """√(Σ w v²/Σ w) of each example."""
    return jnp.sqrt(per_example(*_flat(values, weight, squared=True), "mean"))


def dimension(values: Float[Array, "b *shape"], weight: Weight = None) -> Float[Array, " b"] | int:
    """Σ w of each example: without a weight, the number of values of an example."""
    return math.prod(values.shape[1:]) if weight is None else per_example(jnp.ones_like(values), weight)


def _flat(values: Any, weight: Any, squared: bool = False) -> tuple[Any, Any]:
    """Both arrays as [b, d]. XLA adds the numbers of [b, d] and of [b, h, w, c] in different orders, with other rounding."""
    flat = values.reshape(values.shape[0], -1)
    flat = flat**2 if squared else flat
    return flat, None if weight is None else _like(values, weight).reshape(flat.shape)


def _like(values: Any, weight: Any) -> Any:
    """The weight in the shape and the dtype of `values`."""
    if weight.ndim < 1 or weight.shape != values.shape[: weight.ndim]:
        raise ValueError(
            f"per_example needs a weight for the first axes of values {values.shape}, got the shape {weight.shape}; give "
            "[b], or [b, n] for points [b, n, d]."
        )
    weight = weight.astype(values.dtype).reshape(weight.shape + (1,) * (values.ndim - weight.ndim))
    return jnp.broadcast_to(weight, values.shape)
