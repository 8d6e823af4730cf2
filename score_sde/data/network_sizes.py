"""The fields of a network that the data determine: the sizes and the kinds of its conditions.

A network that takes the condition "label" has a field num_classes. A network that takes "embedding"
has a field embedding_dim. A network that takes others has a field conditions, with their kinds.
"""

from collections.abc import Collection, Mapping
from typing import Any

from score_sde.data.base import DataSpec
from score_sde.internal.companions import owner_of

SIZES = {
    "label": "num_classes",
    "embedding": "embedding_dim",
}  # condition -> field of the network, which is 0 without the condition


def with_sizes(network: Mapping[str, Any], takes: Collection[str], spec: DataSpec) -> dict[str, Any]:
    """The section `network`, with sizes that are None or absent taken from the data.

    Args:
      network: the fields of the config's network.
      takes: the names of all fields of this network. Conditions whose field the network does not
        have are not checked.
    Raises: ValueError for a size that differs from the data, and for a condition that the network
      does not take.
    """
    filled = dict(network)
    if not set(SIZES.values()) <= set(takes):
        return filled
    for condition, field in SIZES.items():
        of_data, given = _size(condition, spec), network.get(field)
        if given not in (None, of_data):
            raise ValueError(_disagreement(field, given, of_data, condition))
        filled[field] = of_data
    others = {name: shape for name, shape in spec.conditions.items() if name not in SIZES}
    if "conditions" not in takes:
        if others:
            raise ValueError(_not_taken(network.get("name"), sorted(others)))
        return filled
    kinds, given = kinds_of(spec), network.get("conditions")
    if given is not None and set(given) != set(kinds):
        raise ValueError(
            f"config.network.conditions={dict(given)}, but the data have the further conditions {kinds}; leave it out to take "
            "the data's, or name them under data.train.conditions."
        )
    return filled | ({"conditions": kinds} if kinds and given is None else {})


def kinds_of(spec: DataSpec) -> dict[str, str]:
    """The kind of each condition other than "label" and "embedding": "vector", "tokens" or "image".

    An array that lies over x (`DataSpec.moving`) is an image. Otherwise [d] is a vector, and
    [length, d] is a sequence of tokens. The masks and lengths of sequences have no kind.

    Raises: ValueError for an array of another shape.
    """
    shapes = {name: shape for name, shape in spec.conditions.items() if name not in SIZES}
    kinds = {}
    for name, shape in shapes.items():
        is_image = name in spec.moving()
        if not is_image and owner_of(name, shapes) is not None:
            continue
        if not is_image and len(shape) not in (1, 2):
            raise ValueError(
                f"The condition {name!r} needs the shape of a vector (d,), of tokens (length, d) or of an image over x, "
                f"{spec.shape[:-1]} with channels, got {shape}; reshape or resize it."
            )
        kinds[name] = "image" if is_image else "vector" if len(shape) == 1 else "tokens"
    return kinds


def _not_taken(network: Any, others: list[str]) -> str:
    return (
        f"The network {network!r} takes the conditions {list(SIZES)}, and the data give {others} too; leave "
        f"them out of data.train.conditions, or say which is the embedding: {{'embedding': {others[0]!r}}}."
    )


def _size(condition: str, spec: DataSpec) -> int:
    """The size that the data have for a condition, or 0 where they do not have the condition."""
    if condition == "label":
        return spec.num_classes or 0
    shape = spec.conditions.get(condition)
    if shape is not None and len(shape) != 1:
        raise ValueError(
            f"The condition {condition!r} needs one vector per example, got the shape {shape} in the data; flatten or pool it."
        )
    return 0 if shape is None else shape[0]


def _disagreement(field: str, given: Any, of_data: int, condition: str) -> str:
    what = {"label": "classes", "embedding": "numbers in the embedding"}[condition]
    advice = f"leave out network.{field} to take the data's number"
    if not of_data:
        gives = {
            "label": "labels (data.train.labels or label_key)",
            "embedding": "an embedding (data.train.conditions)",
        }
        advice += f", or let the data give {gives[condition]}"
    return f"config.network.{field}={given!r}, but the data have {of_data} {what}; {advice}."
