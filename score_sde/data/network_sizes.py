"""The sizes of a network that the data determine: the number of classes and the width of the embedding.

A network that takes the condition "label" has a field num_classes. A network that takes "embedding"
has a field embedding_dim.
"""

from collections.abc import Collection, Mapping
from typing import Any

from score_sde.data.base import DataSpec

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
    others = sorted(set(spec.conditions) - set(SIZES))
    if others:
        raise ValueError(
            f"The network {network.get('name')!r} takes the conditions {list(SIZES)}, and the data give {others} too; leave "
            f"them out of data.train.conditions, or say which is the embedding: {{'embedding': {others[0]!r}}}."
        )
    return filled


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
