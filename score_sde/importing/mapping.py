"""The parameters of a published network under the names of ours: a table, and the check that it fits both sides.

A table is a list of `Entry`. Each family of networks has one file beside this one, with a function
that makes the table from the fields of our network. `convert` applies the table. It uses every
published tensor exactly once, fills every parameter of ours exactly once, and checks every shape.
The entries work on arrays of numpy and of JAX, also inside `jax.grad`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from flax import traverse_util

MOST_SHOWN = 8  # names of one kind in a message

Shape = tuple[int, ...]


def same(tensor: Any) -> Any:
    """The tensor as it is."""
    return tensor


def kernel(weight: Any) -> Any:
    """[out, in, *window] of PyTorch as [*window, in, out]; a window of one element is left out."""
    if weight.ndim > 2 and all(side == 1 for side in weight.shape[2:]):
        weight = weight.reshape(weight.shape[:2])
    return weight.transpose(*range(2, weight.ndim), 1, 0)


def flipped(tensor: Any, axis: int = 0) -> Any:
    """The two halves of an axis in the other order, as cosines before sines are sines before cosines."""
    first, second = _halves(tensor, axis)
    return _xp(tensor).concat((second, first), axis=axis)


def interleaved(tensor: Any) -> Any:
    """The features q₀ k₀ v₀ q₁ k₁ v₁ … of the last axis in the order q₀ q₁ … k₀ k₁ … v₀ v₁ …, of one head or several."""
    return _xp(tensor).concat([tensor[..., i::3] for i in range(3)], axis=-1)


def by_heads(num_heads: int, head_channels: int | None) -> Callable[[Any], Any]:
    """The map of [heads, 3, features of a head] along the last axis to [3, heads, features of a head]."""

    def split(tensor: Any) -> Any:
        heads = tensor.shape[-1] // (3 * head_channels) if head_channels else num_heads
        parts = tensor.reshape(*tensor.shape[:-1], heads, 3, -1)
        return _xp(tensor).moveaxis(parts, -2, -3).reshape(tensor.shape)

    return split


def with_null_row(weight: Any, transpose: bool = True) -> Any:
    """A map [out, in] of one-hot labels, or a table, as a table with a last row of zeros for "no label"."""
    rows = weight.T if transpose else weight
    return _xp(weight).concat((rows, _xp(weight).zeros_like(rows[:1])), axis=0)


def joined(*tensors: Any) -> Any:
    """The tensors one after another along the last axis, as our `qkv` holds queries, keys and values."""
    return _xp(tensors[0]).concat(tensors, axis=-1)


def after(first: Callable[[Any], Any], then: Callable[..., Any]) -> Callable[..., Any]:
    """(*tensors) -> then(first of each tensor)."""
    return lambda *tensors: then(*(first(tensor) for tensor in tensors))


class Entry(NamedTuple):
    """Our parameter `ours`, as "a/b/kernel", is `change` of the published tensors `theirs`."""

    ours: str
    theirs: tuple[str, ...]
    change: Callable[..., Any] = same
    optional: bool = False  # whether the entry falls away where our network has no such parameter


def linear(ours: str, theirs: str, *, bias: bool = True, optional: bool = False) -> list[Entry]:
    """The entries of a dense map or convolution of PyTorch."""
    entries = [Entry(f"{ours}/kernel", (f"{theirs}.weight",), kernel, optional)]
    return [*entries, Entry(f"{ours}/bias", (f"{theirs}.bias",), same, optional)] if bias else entries


def norm(ours: str, theirs: str) -> list[Entry]:
    """The entries of a normalization of PyTorch with scale and bias."""
    return [Entry(f"{ours}/scale", (f"{theirs}.weight",)), Entry(f"{ours}/bias", (f"{theirs}.bias",))]


def shapes_of(params: Any) -> dict[str, Shape]:
    """The shape of every parameter of a tree, by its name "a/b/kernel".

    The tree may hold arrays or the shapes of `jax.eval_shape`.
    """
    return {name: tuple(leaf.shape) for name, leaf in traverse_util.flatten_dict(params, sep="/").items()}


def convert(
    table: Iterable[Entry],
    tensors: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    *,
    unused: Sequence[str] = (),
    what: str = "The file",
) -> dict[str, Any]:
    """The tree of our parameters that `table` makes of the published `tensors`.

    Args:
      shapes: the shapes of our parameters, as `shapes_of` gives them.
      unused: patterns of published names that the network does not need, such as fixed filters.
      what: the source of the tensors, for messages.
    Raises: ValueError that names the tensors that are missing, left over or of another shape.
    """
    table = [entry for entry in table if not entry.optional or entry.ours in shapes]
    wanted = Counter(name for entry in table for name in entry.theirs)
    ours = Counter(entry.ours for entry in table)
    left = [name for name in tensors if name not in wanted and not any(re.fullmatch(p, name) for p in unused)]
    faults = {
        "missing": [name for name in wanted if name not in tensors],
        "left over": left,
        "used more than once": [name for name, count in wanted.items() if count > 1],
        "without a source": [name for name in shapes if not ours[name]],
        "not of the network": [name for name in ours if name not in shapes],
        "set more than once": [name for name, count in ours.items() if count > 1],
    }
    _refuse(faults, what)
    made, wrong = {}, []
    for entry in table:
        value = _changed(entry, tensors)
        if value is None or tuple(value.shape) != shapes[entry.ours]:
            came = ", ".join(f"{name} {list(tensors[name].shape)}" for name in entry.theirs)
            wrong.append(f"{came} for {entry.ours} {list(shapes[entry.ours])}")
        made[entry.ours] = value
    _refuse({"of another shape": wrong}, what)
    return traverse_util.unflatten_dict(made, sep="/")


def _xp(tensor: Any) -> Any:
    """The functions of numpy or of JAX, whichever made the array."""
    return tensor.__array_namespace__()


def _halves(tensor: Any, axis: int) -> tuple[Any, Any]:
    moved = _xp(tensor).moveaxis(tensor, axis, 0)
    half = len(moved) // 2
    return tuple(_xp(tensor).moveaxis(part, 0, axis) for part in (moved[:half], moved[half:]))


def _changed(entry: Entry, tensors: Mapping[str, Any]) -> Any:
    """The value of our parameter, or None where the tensors have shapes that cannot be changed so."""
    try:
        return entry.change(*(tensors[name] for name in entry.theirs))
    except (ValueError, TypeError, IndexError):
        return None


def _refuse(faults: Mapping[str, Sequence[str]], what: str) -> None:
    """Raises ValueError where a list of faults is not empty."""
    told = [f"{kind}: {_shown(names)}" for kind, names in faults.items() if names]
    if told:
        raise ValueError(
            f"{what} does not fit this network; {'; '.join(told)}. Choose the fields of the network as in the published "
            "config, or another file."
        )


def _shown(names: Sequence[str]) -> str:
    more = len(names) - MOST_SHOWN
    return ", ".join(names[:MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")
