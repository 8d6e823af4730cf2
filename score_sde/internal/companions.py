"""Arrays that belong to a condition: they say which tokens of its sequences are present.

A sequence `text` of shape [length, width] may come with `text_mask` [length], which is 1 for the
tokens that are present, or with `text_length` [], the number of tokens from the first on.
"""

from collections.abc import Mapping

MASK, LENGTH = "_mask", "_length"


def owner_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The sequence whose tokens `name` marks, or None where `name` is a condition by itself.

    Args:
      name: a name in `shapes`.
      shapes: the shape of one example of every array, by name.
    """
    for ending in (MASK, LENGTH):
        owner = name.removesuffix(ending)
        of_owner = shapes.get(owner, ())
        if owner != name and len(of_owner) == 2 and shapes[name] == (of_owner[:1] if ending == MASK else ()):
            return owner
    return None


def with_companions(names: list[str], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The names, and the names of all arrays that belong to them."""
    return [name for name in shapes if name in names or owner_of(name, shapes) in names]
