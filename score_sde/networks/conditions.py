"""The conditions of a network, by name: class labels, vectors, token sequences and images.

Zeros mean "no condition". The label that means "no condition" is the class after the last class.
Symbols: b is the number of examples, L the number of tokens of a sequence.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jaxtyping import Array, Bool, Float, Int

from score_sde.internal.companions import LENGTH, MASK
from score_sde.networks.layers import dense, wide

KINDS = ("vector", "tokens", "image")
LABEL, EMBEDDING = "label", "embedding"  # the two conditions with a field of their own

Condition = Mapping[str, Array]


class Given(NamedTuple):
    """The conditions of a batch in the form in which layers use them.

    Attributes:
      vectors: one vector for the label and for each condition of kind "vector".
      tokens: the tokens of all sequences, after the learned null token. None without sequences.
      mask: which tokens are present. The null token always is.
      images: all images, along the channels in the order of their names. None without images.
      label: the vector of the label, where it has a width of its own. It is then not in `vectors`.
    """

    vectors: tuple[Float[Array, "b width"], ...] = ()
    tokens: Float[Array, "b tokens token_width"] | None = None
    mask: Bool[Array, "b tokens"] | None = None
    images: Float[Array, "b *space c"] | None = None
    label: Float[Array, "b label_width"] | None = None

    def added_to(self, features: Float[Array, "b width"]) -> Float[Array, "b width"]:
        """The features plus all vectors."""
        for vector in self.vectors:
            features = features + vector
        return features

    def beside(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space more"]:
        """x with the images as further channels."""
        return x if self.images is None else jnp.concatenate([x, self.images.astype(x.dtype)], axis=-1)


class Conditions(nn.Module):
    """Conditions by name to `Given`. Each condition is used by its kind, and a kind without conditions has no parameters.

    | kind | array | becomes |
    |---|---|---|
    | label | integers `[b]` | a row of a learned table; row num_classes is the null class |
    | vector | `[b, d]` | a linear map without bias |
    | tokens | `[b, L, d]` | a linear map without bias for each token, after a learned null token |
    | image | `[b, *space, c]` or `[b, *space]` | channels beside x |

    A sequence `text` may come with `text_mask` `[b, L]`, which is 1 for the tokens that are
    present, or with `text_length` `[b]`. A token of zeros is absent too. So the null condition of
    a sequence is zeros, which leave the null token alone.

    Attributes:
      width: the length of the vectors.
      token_width: the length of the tokens.
      num_classes: the number of classes of the condition "label", 0 for none.
      embedding_dim: the width of the vector "embedding", 0 for none.
      kinds: "vector", "tokens" or "image" for each further condition.
      null_token: whether the learned null token comes before the sequences.
      label_width: the length of the label's vector, which is then not among the vectors. None is
        `width`.
      label_std: the standard deviation of the table's first values.
      dtype: the computation's type for tokens. Vectors are float32.

    Raises: ValueError for a condition that is missing, is not declared, or has another shape or
      type.
    """

    width: int
    token_width: int = 0
    num_classes: int = 0
    embedding_dim: int = 0
    kinds: Mapping[str, str] | None = None
    null_token: bool = True
    label_width: int | None = None
    label_std: float = 1.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", frozen_kinds(self.kinds))
        super().__post_init__()

    @nn.compact
    def __call__(self, condition: Condition | None, x: Float[Array, "b *shape"]) -> Given:
        condition = condition or {}
        self._check(condition, x)
        of_kind = {kind: [name for name, each in sorted(self._kinds.items()) if each == kind] for kind in KINDS}
        label = self._label_vector(condition[LABEL]) if self.num_classes else None
        vectors = []
        if label is not None and self.label_width is None:
            vectors, label = [label], None
        for name in [EMBEDDING] * bool(self.embedding_dim) + of_kind["vector"]:
            vectors.append(self._projected(name, condition[name], self.width, wide(self.dtype)))
        tokens, mask = self._sequence(condition, of_kind["tokens"], len(x))
        images = [_with_channels(condition[name], x) for name in of_kind["image"]]
        return Given(tuple(vectors), tokens, mask, jnp.concatenate(images, axis=-1) if images else None, label)

    @property
    def _kinds(self) -> Mapping[str, str]:
        return self.kinds or {}

    def _label_vector(self, label: Int[Array, " b"]) -> Float[Array, "b width"]:
        """Row `label` of a learned table, or NaN for a label out of range.

        By default the table is drawn from N(0, 1), which has the size of the noise features.
        """
        init = nn.initializers.normal(self.label_std)
        table = self.param("label", init, (self.num_classes + 1, self.label_width or self.width))
        label = jnp.where(label < 0, self.num_classes + 1, label)  # a negative index would count from the end
        return jnp.take(table, label, axis=0, mode="fill", fill_value=jnp.nan)

    def _projected(self, name: str, values: Array, width: int, dtype: str) -> Float[Array, "b ... width"]:
        if self.has_variable("params", name):
            known: int = self.get_variable("params", name)["kernel"].shape[0]
            if values.shape[-1] != known:
                raise ValueError(
                    f'The condition "{name}" has a width of {known} in this network, got shape {values.shape}; give '
                    "arrays of that width, or train a network for the new one."
                )
        return dense(width, dtype, name, use_bias=False)(values.astype(wide(self.dtype)))

    def _sequence(
        self, condition: Condition, names: Sequence[str], batch: int
    ) -> tuple[Float[Array, "b tokens token_width"] | None, Bool[Array, "b tokens"] | None]:
        """(the tokens of all sequences, which of them are present), with the null token first."""
        if not names:
            return None, None
        tokens = [self._projected(name, condition[name], self.token_width, self.dtype) for name in names]
        masks = [_present(name, condition) for name in names]
        if self.null_token:
            null = self.param("null_token", nn.initializers.normal(1.0), (1, 1, self.token_width))
            tokens.insert(0, jnp.broadcast_to(null.astype(tokens[0].dtype), (batch, 1, self.token_width)))
            masks.insert(0, jnp.ones((batch, 1), bool))
        return jnp.concatenate(tokens, axis=1), jnp.concatenate(masks, axis=1)

    def _check(self, condition: Condition, x: Array) -> None:
        """Raises ValueError unless the condition holds exactly what the fields declare, in the declared shape."""
        needed = [LABEL] * bool(self.num_classes) + [EMBEDDING] * bool(self.embedding_dim) + list(self._kinds)
        sequences = [name for name, kind in self._kinds.items() if kind == "tokens"]
        optional = {name + ending for name in sequences for ending in (MASK, LENGTH)}
        if not set(needed) <= set(condition) <= set(needed) | optional:
            others = f", conditions={dict(self._kinds)}" if self._kinds else ""
            raise ValueError(
                f"A network with num_classes={self.num_classes}, embedding_dim={self.embedding_dim}{others} needs the "
                f"conditions {sorted(needed)}, got {sorted(condition)}; pass exactly those, "
                "or set the network's fields to what the data has (label num_classes stands for no label)."
            )
        batch, space = len(x), x.shape[1:-1]
        if self.num_classes:
            _check_shape(LABEL, condition[LABEL], (batch,))
            self._check_label(condition[LABEL])
        if self.embedding_dim:
            _check_shape(
                EMBEDDING, condition[EMBEDDING], (batch, self.embedding_dim), ", or set embedding_dim to its width"
            )
        for name, kind in self._kinds.items():
            sizes = {"vector": (batch, None), "tokens": (batch, None, None), "image": (batch, *space, None)}[kind]
            values = condition[name]
            _check_shape(name, values[..., None] if kind == "image" and values.ndim == x.ndim - 1 else values, sizes)
            if not jnp.issubdtype(values.dtype, jnp.floating):
                raise ValueError(
                    f'The condition "{name}" of kind "{kind}" needs floating numbers, got {values.dtype}; scale 8-bit '
                    "images to [-1, 1], as by 2 * image / 255 - 1, and write class numbers as one-hot vectors."
                )
        for name in sequences:
            _check_companions(name, condition)

    def _check_label(self, label: Array) -> None:
        if not jnp.issubdtype(label.dtype, jnp.integer):
            raise ValueError(
                f'The condition "label" needs integers 0 … {self.num_classes}, got {label.dtype}; cast it '
                'to int32 (a one-hot array is argmax-ed first, a soft one is an "embedding").'
            )


def null_condition(condition: Condition, num_classes: int | None) -> dict[str, Array]:
    """The condition that means "no condition", in the same shapes.

    For "label" it is the class after the last class. For all other conditions, for masks and for
    lengths it is zeros.
    """
    return {
        name: jnp.full_like(values, num_classes or 0) if name == LABEL else jnp.zeros_like(values)
        for name, values in condition.items()
    }


class HasNull:
    """A network whose condition "label" has the learned null class `num_classes`."""

    num_classes: int | None

    def null(self, condition: Condition) -> dict[str, Array]:
        """The condition that means "no condition", in the shape of `condition`."""
        return null_condition(condition, self.num_classes)


def frozen_kinds(kinds: Mapping[str, str] | None) -> FrozenDict[str, str] | None:
    """The kinds as a value that a module can hold: a module must be hashable."""
    return None if kinds is None else FrozenDict(kinds)


def check_kinds(network: Any, takes: Sequence[str]) -> None:
    """Freezes the field `conditions` of a network, and checks it.

    Args:
      network: a module with the field `conditions`.
      takes: the kinds that the network can use.
    Raises: ValueError for another kind, or for the names "label" and "embedding".
    """
    object.__setattr__(network, "conditions", frozen_kinds(network.conditions))
    for name, kind in (network.conditions or {}).items():
        if name in (LABEL, EMBEDDING):
            raise ValueError(
                f"{type(network).__name__} takes {name!r} by the field "
                f"{'num_classes' if name == LABEL else 'embedding_dim'}; set that field, and leave {name!r} out of conditions."
            )
        if kind not in takes:
            raise ValueError(
                f"{type(network).__name__} takes conditions of the kinds {', '.join(takes)}, got {name!r} of kind {kind!r}; "
                "leave it out, or choose a network that takes it."
            )


def check_channels(network: nn.Module, layer: str, x: Array, given: Given) -> None:
    """Raises ValueError where the images have another number of channels than in training.

    Args:
      network: a bound module.
      layer: the name of its first convolution, which takes x and the images.
    """
    if given.images is None or not network.has_variable("params", layer):
        return
    needed = network.get_variable("params", layer)["kernel"].shape[-2] - x.shape[-1]
    if given.images.shape[-1] != needed:
        raise ValueError(
            f"The images among the conditions have {needed} channels in all in this network, got {given.images.shape[-1]}; "
            "give images with those channels, or train a network for the new ones."
        )


def _with_channels(image: Array, x: Array) -> Float[Array, "b *space c"]:
    return image[..., None] if image.ndim == x.ndim - 1 else image


def _present(name: str, condition: Condition) -> Bool[Array, "b L"]:
    """Which tokens of a sequence are present: those that the mask or the length says and that are not zeros."""
    present = jnp.any(condition[name] != 0, axis=-1)
    if (mask := condition.get(name + MASK)) is not None:
        present &= mask.astype(bool)
    if (length := condition.get(name + LENGTH)) is not None:
        present &= jnp.arange(present.shape[1])[None] < length[:, None]
    return present


def _check_shape(name: str, values: Array, sizes: Sequence[int | None], advice: str = "") -> None:
    """Raises ValueError unless the array has these sizes, where None is any size."""
    fits = values.ndim == len(sizes) and all(n in (None, size) for n, size in zip(sizes, values.shape, strict=True))
    if not fits:
        shape = f"({', '.join('any' if n is None else str(n) for n in sizes)}{',' * (len(sizes) == 1)})"
        raise ValueError(f'The condition "{name}" needs shape {shape}, got {values.shape}; reshape it{advice}.')


def _check_companions(name: str, condition: Condition) -> None:
    """Raises ValueError for a mask or a length that does not fit its sequence, or for both."""
    mask, length = (condition.get(name + ending) for ending in (MASK, LENGTH))
    if mask is not None and length is not None:
        raise ValueError(
            f'The sequence "{name}" takes "{name}{MASK}" or "{name}{LENGTH}", got both; leave one of them out.'
        )
    for ending, values, axes in ((MASK, mask, 2), (LENGTH, length, 1)):
        if values is None:
            continue
        _check_shape(name + ending, values, condition[name].shape[:axes])
        if not (jnp.issubdtype(values.dtype, jnp.integer) or (ending == MASK and values.dtype == jnp.bool_)):
            raise ValueError(
                f'The condition "{name}{ending}" needs {"booleans or integers" if ending == MASK else "integers"}, got '
                f"{values.dtype}; cast it."
            )
