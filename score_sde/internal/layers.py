"""Layers of a Flax network by their names: their attention maps and outputs, and changes for some rows of a batch.

The name of a layer is the path of its module, as in the tree of the parameters: "middle_attention",
or "block_3/attention" for a module within a module. A network needs no code for any of this. It
only passes its attention maps through `AttentionMap`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float


class AttentionMap(nn.Module):
    """The attention map itself, as a module without parameters: a map can be replaced or read from outside."""

    def __call__(self, weights: Float[Array, "b *heads q k"]) -> Float[Array, "b *heads q k"]:
        return weights

    def is_wanted(self) -> bool:
        """Whether the map is replaced or read, so that a kernel that never stores it cannot be used."""
        return False


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of the named layers of a network.

    Attributes:
      kind: "identity_map" replaces each attention map in the layer by the identity. "skip" replaces
        the layer by its first input.
      layers: the names of the layers.
    """

    kind: Literal["identity_map", "skip"]
    layers: tuple[str, ...]


class Reading(NamedTuple):
    """The values to read inside of a network.

    Attributes:
      maps: the names of layers whose attention maps are read.
      features: the names of layers whose outputs are read.
    """

    maps: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


class Inside(NamedTuple):
    """Values that were read inside of a network, by the names of the layers."""

    maps: Mapping[str, Array]
    features: Mapping[str, Array]


def call(
    apply: Callable[..., Any], changes: Sequence[Change | None] = (), reading: Reading | None = None
) -> tuple[Any, Inside]:
    """(the output of a network, the values that were read inside), by one call apply(**keywords) of `network.apply`.

    Args:
      apply: passes its keywords to `network.apply`.
      changes: the rows of the batch take turns: row i has changes[i % len(changes)]. None is no
        change.
      reading: the values to read.

    Raises: ValueError for a name that is no such layer of the network, with the names that are.
    """
    if not any(changes) and reading is None:
        return apply(), Inside({}, {})
    calls = _Calls(tuple(changes), reading or Reading())
    keywords = {} if reading is None else {"capture_intermediates": calls.is_read, "mutable": ["intermediates"]}
    with nn.intercept_methods(calls):
        found = apply(**keywords)
    calls.check()
    return (found, Inside({}, {})) if reading is None else (found[0], calls.inside(found[1]["intermediates"]))


class _Calls:
    """Changes the results of the calls of modules, and notes the names of the modules."""

    def __init__(self, changes: tuple[Change | None, ...], reading: Reading):
        self.changes, self.reading = changes, reading
        self.used: dict[tuple[str, str], tuple[str, ...]] = {}  # the path of each named layer or map
        self.known: dict[str, list[str]] = {kind: [] for kind in KINDS}

    def __call__(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        value = call(*args, **kwargs)
        path = _path(context.module)
        if not path or context.method_name not in ("__call__", "is_wanted"):
            return value
        is_map = isinstance(context.module, AttentionMap)
        if context.method_name == "is_wanted":
            self._note("maps", path)
            replaced = [change.layers for change in self.changes if change and change.kind == "identity_map"]
            return any(_is_map_of(path, name) for names in (self.reading.maps, *replaced) for name in names)
        other = _identity(value) if is_map else args[0] if args else None
        fits = other is not None and _shape(other) == _shape(value) is not None
        self._note("maps" if is_map else "features", path)
        if fits:
            self._note("identity_map" if is_map else "skip", path)
        named = [change is not None and self._names(change, path, is_map) for change in self.changes]
        if not any(named):
            return value
        if other is None or not fits:
            kind = "identity_map" if is_map else "skip"
            raise ValueError(
                f"The layer {'/'.join(path)!r} is not {KINDS[kind].one}; name another. {self._choices(kind)}"
            )
        rows = np.tile(np.array(named), value.shape[0] // len(named)).reshape(-1, *(1,) * (value.ndim - 1))
        return jnp.where(rows, other, value)

    def is_read(self, module: nn.Module, method: str) -> bool:
        """Whether the output of this call is kept."""
        if method != "__call__":
            return False
        path = _path(module)
        if not isinstance(module, AttentionMap):
            return self._use("features", path, self.reading.features)
        return self._use("maps", path, self.reading.maps)

    def check(self) -> None:
        """Raises ValueError for a change without layers, or for a name that was not called."""
        wanted: list[tuple[str, tuple[str, ...]]] = [
            (change.kind, change.layers) for change in self.changes if change is not None
        ]
        wanted += [(kind, names) for kind, names in self.reading._asdict().items() if names]
        for kind, names in wanted:
            unknown = [name for name in names if (kind, name) not in self.used]
            if unknown or not names:
                got = f"got {unknown[0]!r}, which is none" if unknown else "got none"
                raise ValueError(f"This needs the names of {KINDS[kind].many}, {got}. {self._choices(kind)}")

    def inside(self, intermediates: Mapping[str, Any]) -> Inside:
        """The values from Flax's tree of outputs, which has one value for each call of a layer. The last is taken."""

        def read(kind: str, name: str) -> Array:
            tree: Any = intermediates
            for part in self.used[kind, name]:
                tree = tree[part]
            return tree["__call__"][-1]

        kinds = self.reading._asdict().items()
        return Inside(**{kind: {name: read(kind, name) for name in names} for kind, names in kinds})

    def _names(self, change: Change, path: tuple[str, ...], is_map: bool) -> bool:
        return is_map == (change.kind == "identity_map") and self._use(change.kind, path, change.layers)

    def _use(self, kind: str, path: tuple[str, ...], names: Sequence[str]) -> bool:
        """Whether one of the names means this module."""
        means = _is_map_of if kind in ("identity_map", "maps") else _is_at
        found = [name for name in names if means(path, name)]
        self.used.update({(kind, name): path for name in found})
        return bool(found)

    def _note(self, kind: str, path: tuple[str, ...]) -> None:
        if kind in ("identity_map", "maps"):
            self.known[kind].append("/".join(path[:-1]) or path[-1])
        elif len(path) == 1:  # of the many layers within layers, a message names none
            self.known[kind].append(path[0])

    def _choices(self, kind: str) -> str:
        return f"The network has {', '.join(dict.fromkeys(self.known[kind])) or 'none'}."


class _Kind(NamedTuple):
    """The words of messages for the layers of a kind."""

    one: str
    many: str


KINDS = {
    "identity_map": _Kind("attention from an array to itself", "layers with attention"),
    "skip": _Kind("a layer whose output is like its input", "layers to skip"),
    "maps": _Kind("attention", "layers with attention"),
    "features": _Kind("a layer", "layers"),
}


def _path(module: nn.Module) -> tuple[str, ...]:
    """The names of the modules from the network down to this one. Empty for the network, and outside of it."""
    return () if module.scope is None else module.path


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of an array. None for anything else, such as a tuple of arrays."""
    return getattr(value, "shape", None)


def _is_at(path: tuple[str, ...], name: str) -> bool:
    return "/".join(path) == name


def _is_map_of(path: tuple[str, ...], name: str) -> bool:
    """Whether a map at `path` belongs to the layer, which may be any module around it."""
    return f"{'/'.join(path)}/".startswith(f"{name}/")


def _identity(attention_map: Float[Array, "b *heads q k"]) -> Array | None:
    """The identity in the shape of a map, or None for a map that is not square."""
    if attention_map.shape[-1] != attention_map.shape[-2]:
        return None
    identity = jnp.eye(attention_map.shape[-1], dtype=attention_map.dtype)
    return jnp.broadcast_to(identity.reshape((1,) * (attention_map.ndim - 2) + identity.shape), attention_map.shape)
