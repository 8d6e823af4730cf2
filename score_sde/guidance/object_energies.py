"""Energies of one object of a picture: its position, size, shape and appearance, from inside of the network.

An object is the part of a picture that belongs to some tokens of the condition, such as the word
"dog". A is the attention of each position to these tokens, averaged over heads, tokens and layers.
The shape of an object is A after a soft threshold, between 0 and 1.

Source: Epstein et al. (self-guidance), arXiv 2306.00986, Sec. 3.
"""

import abc
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.internal.layers import Inside, Reading
from score_sde.internal.per_example import per_example
from score_sde.internal.pytree import pytree, static

Positions = Float[Array, "b *space"]


@pytree
class ObjectEnergy(abc.ABC):
    """E of each image, from the attention maps and the features of the network.

    Attributes:
      tokens: the tokens of the object, as columns of the attention map, from 0. In the U-Net, column
        0 is the null token, and column 1 is the first token of the condition.
      layers: the names of layers with attention to the tokens.
      reference_tokens: the tokens of the object in the condition of the reference. None: `tokens`.
      sharpness: the steepness of the soft threshold of a shape.

    Raises: ValueError without tokens or without layers.
    """

    tokens: Sequence[int] = static(default=(1,))
    layers: Sequence[str] = static(default=())
    reference_tokens: Sequence[int] | None = static(default=None)
    sharpness: float = 10.0

    def __post_init__(self):
        for name in ("tokens", "layers", "reference_tokens"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "sharpness", float(self.sharpness))
        if not self.tokens or not self.layers:
            raise ValueError(
                f"{type(self).__name__} needs the tokens of an object, and layers with attention to them, got "
                f"tokens={self.tokens}, layers={self.layers}."
            )

    @property
    def reading(self) -> Reading:
        """The values that the energy reads."""
        return Reading(maps=tuple(self.layers))

    @property
    def needs_reference(self) -> bool:
        """Whether the energy compares the object with an object of the reference."""
        return True

    @abc.abstractmethod
    def __call__(self, inside: Inside, reference: Inside, space: tuple[int, ...]) -> Float[Array, " b"]:
        """E, one number for each image.

        Args:
          reference: the same values for the reference, with a batch of 1 or b. Empty without one.
          space: the sides of an image.
        """

    def of_reference(self) -> tuple[int, ...]:
        return tuple(self.tokens if self.reference_tokens is None else self.reference_tokens)

    def attention(self, inside: Inside, tokens: Sequence[int], space: tuple[int, ...]) -> list[Positions]:
        """A of each layer, at the resolution of the layer."""
        return [_attention(inside.maps[layer], tokens, space) for layer in self.layers]

    def shapes(self, inside: Inside, tokens: Sequence[int], space: tuple[int, ...]) -> list[Positions]:
        """The shape of the object in each layer."""
        return [_thresholded(each, self.sharpness) for each in self.attention(inside, tokens, space)]


@pytree
class Position(ObjectEnergy):
    """E = ‖centroid − target‖₁, averaged over layers. It moves an object.

    The centroid is Σ p A(p)/Σ A(p), with the position p from 0 to 1 along each side, from the top
    and from the left.

    Attributes:
      target: the wanted centroid. None: the centroid in the reference plus `by`.
      by: the shift from the reference. None: 0.
    """

    target: Sequence[int | float] | None = None
    by: Sequence[int | float] | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("target", "by"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))

    @property
    def needs_reference(self) -> bool:
        return self.target is None

    def __call__(self, inside: Inside, reference: Inside, space: tuple[int, ...]) -> Float[Array, " b"]:
        found = self.attention(inside, self.tokens, space)
        if self.target is not None:
            wanted = [_row(self.target)] * len(found)
        else:
            of_reference = self.attention(reference, self.of_reference(), space)
            wanted = [centroid(each) + _row(self.by or (0.0,) * len(space)) for each in of_reference]
        distances = [jnp.sum(jnp.abs(centroid(a) - w), axis=1) for a, w in zip(found, wanted, strict=True)]
        return sum(distances, jnp.zeros(())) / len(distances)


@pytree
class Size(ObjectEnergy):
    """E = |size − target|, averaged over layers. The size is the mean of the shape: about the share of the picture.

    Attributes:
      target: the wanted size, from 0 to 1. None: the size in the reference times `times`.
      times: the factor to the size in the reference.
    """

    target: float | None = None
    times: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        for name in ("target", "times"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def needs_reference(self) -> bool:
        return self.target is None

    def __call__(self, inside: Inside, reference: Inside, space: tuple[int, ...]) -> Float[Array, " b"]:
        sizes = [_mean(each) for each in self.shapes(inside, self.tokens, space)]
        if self.target is not None:
            wanted = [jnp.asarray(self.target)] * len(sizes)
        else:
            wanted = [self.times * _mean(each) for each in self.shapes(reference, self.of_reference(), space)]
        return sum((jnp.abs(s - w) for s, w in zip(sizes, wanted, strict=True)), jnp.zeros(())) / len(sizes)


@pytree
class Shape(ObjectEnergy):
    """E = the mean of |shape − shape in the reference|, averaged over layers. It keeps or copies a layout."""

    def __call__(self, inside: Inside, reference: Inside, space: tuple[int, ...]) -> Float[Array, " b"]:
        found = self.shapes(inside, self.tokens, space)
        wanted = self.shapes(reference, self.of_reference(), space)
        return sum((_mean(jnp.abs(f - w)) for f, w in zip(found, wanted, strict=True)), jnp.zeros(())) / len(found)


@pytree
class Appearance(ObjectEnergy):
    """E = the mean of |appearance − appearance in the reference|, averaged over features. It copies how an object looks.

    The appearance is Σ shape(p) features(p)/Σ shape(p), with the shape of the first of `layers`, at
    the resolution of the features.

    Attributes:
      features: the names of layers whose outputs are the features.

    Raises: ValueError as `ObjectEnergy`, and without features.
    """

    features: Sequence[str] = static(default=())

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "features", tuple(self.features))
        if not self.features:
            raise ValueError("Appearance needs features, the names of layers whose outputs it compares, got ().")

    @property
    def reading(self) -> Reading:
        return Reading(maps=tuple(self.layers), features=tuple(self.features))

    def __call__(self, inside: Inside, reference: Inside, space: tuple[int, ...]) -> Float[Array, " b"]:
        found = self._appearances(inside, self.tokens, space)
        wanted = self._appearances(reference, self.of_reference(), space)
        return sum((_mean(jnp.abs(f - w)) for f, w in zip(found, wanted, strict=True)), jnp.zeros(())) / len(found)

    def _appearances(self, inside: Inside, tokens: Sequence[int], space: tuple[int, ...]) -> list[Array]:
        shape = self.shapes(inside, tokens, space)[0]
        found = []
        for layer in self.features:
            values = inside.features[layer]
            sides = _sides(math.prod(values.shape[1:-1]), space)
            values = values.reshape(len(values), *sides, -1)
            weights = jax.image.resize(shape, (len(shape), *sides), "linear")[..., None]
            places = tuple(range(1, weights.ndim - 1))
            found.append(jnp.sum(weights * values, axis=places) / (jnp.sum(weights, axis=places) + 1e-6))
        return found


@pytree
class Together(ObjectEnergy):
    """E = Σ weights[i] · energies[i], for several objects or several wishes for one object.

    Attributes:
      energies: the energies.
      weights: one number for each. None: 1.

    Raises: ValueError for another number of weights.
    """

    tokens: Sequence[int] = static(default=())
    energies: Sequence[ObjectEnergy] = ()
    weights: Sequence[int | float] | None = None

    def __post_init__(self):
        object.__setattr__(self, "energies", tuple(self.energies))
        weights = (1.0,) * len(self.energies) if self.weights is None else tuple(map(float, self.weights))
        object.__setattr__(self, "weights", weights)
        if not 1 <= len(weights) == len(self.energies):
            raise ValueError(
                f"Together needs energies and as many weights, got {len(self.energies)} energies, weights={self.weights}."
            )

    @property
    def reading(self) -> Reading:
        readings = [each.reading for each in self.energies]
        maps, features = ([name for each in readings for name in each[i]] for i in range(2))
        return Reading(tuple(dict.fromkeys(maps)), tuple(dict.fromkeys(features)))

    @property
    def needs_reference(self) -> bool:
        return any(each.needs_reference for each in self.energies)

    def __call__(self, inside: Inside, reference: Inside, space: tuple[int, ...]) -> Float[Array, " b"]:
        terms = zip(self.weights or (), self.energies, strict=True)
        return sum((weight * energy(inside, reference, space) for weight, energy in terms), jnp.zeros(()))


def centroid(attention: Positions) -> Float[Array, "b axes"]:
    """Σ p A(p)/Σ A(p), with p at the centres of the positions, from 0 to 1."""
    axes = range(1, attention.ndim)
    total = jnp.sum(attention, axis=tuple(axes)) + 1e-12
    parts = []
    for axis in axes:
        others = tuple(other for other in axes if other != axis)
        places = (jnp.arange(attention.shape[axis], dtype=attention.dtype) + 0.5) / attention.shape[axis]
        parts.append(jnp.sum(jnp.sum(attention, axis=others) * places[None], axis=1) / total)
    return jnp.stack(parts, axis=1)


def _attention(weights: Float[Array, "b *heads q k"], tokens: Sequence[int], space: tuple[int, ...]) -> Positions:
    if max(tokens) >= weights.shape[-1]:
        raise ValueError(
            f"The object has the tokens {tuple(tokens)}, and the attention has {weights.shape[-1]} tokens; count from 0."
        )
    of_object = jnp.mean(weights[..., jnp.array(tokens)], axis=-1)
    heads = tuple(range(1, of_object.ndim - 1))
    of_object = jnp.mean(of_object, axis=heads)
    return of_object.reshape(len(of_object), *_sides(of_object.shape[1], space))


def _sides(number: int, space: tuple[int, ...]) -> tuple[int, ...]:
    """The sides of a layer with this number of positions. All sides of the image are divided by one number."""
    for factor in range(1, min(space, default=0) + 1):
        sides = tuple(side // factor for side in space)
        if math.prod(sides) == number:
            return sides
    raise ValueError(f"A layer has {number} positions, which is no image of the sides {space} made smaller.")


def _thresholded(attention: Positions, sharpness: float | Float[Array, ""]) -> Positions:
    """normal(sigmoid(sharpness · (normal(A) − ½))), where normal maps the values of an image to 0 … 1."""
    return _normal(jax.nn.sigmoid(sharpness * (_normal(attention) - 0.5)))


def _normal(values: Positions) -> Positions:
    axes = tuple(range(1, values.ndim))
    low, high = (function(values, axis=axes, keepdims=True) for function in (jnp.min, jnp.max))
    return (values - low) / (high - low + 1e-6)


def _mean(values: Float[Array, "b *shape"]) -> Float[Array, " b"]:
    return per_example(values, reduce="mean")


def _row(values: Sequence[Any]) -> Float[Array, "1 n"]:
    return jnp.stack([jnp.asarray(value, jnp.float32) for value in values])[None]


OBJECT_ENERGIES: dict[str, type[ObjectEnergy]] = {
    "position": Position,
    "size": Size,
    "shape": Shape,
    "appearance": Appearance,
}
