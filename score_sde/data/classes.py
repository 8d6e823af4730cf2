"""Classes by name: how names become numbers, the same in training, held-out data and sampling."""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int32, Shaped

from score_sde.data.base import as_labels

LISTED = 20  # known names that a message lists


def normal(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS writes the "é" of a file decomposed, other systems as it was typed."""
    return unicodedata.normalize("NFC", name)


def number_of(name: str, known: Sequence[str], who: str) -> int:
    """The number of the class `name` among the `known` ones. Raises ValueError that lists these, the closest first."""
    if normal(name) in known:
        return known.index(normal(name))
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    listed = [*close, *(other for other in known if other not in close)]
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    raise ValueError(
        f"{who} has the class {name!r}, which is none of the {len(known)} known classes: "
        f"{', '.join(map(repr, listed[:LISTED]))}{more}."
    )


def numbered(
    names: Iterable[str], known: Sequence[str] | None, who: str
) -> tuple[tuple[str, ...], Int32[np.ndarray, " n"]]:
    """Class names and the number of each label: in the order of `known`, or in alphabetical order if that is None."""
    labels = [normal(name) for name in names]
    different = sorted(set(labels))
    classes = tuple(different) if known is None else tuple(normal(name) for name in known)
    number = {name: number_of(name, classes, who) for name in different}
    return classes, np.array([number[label] for label in labels], np.int32)


def labels_of(
    values: Shaped[np.ndarray, "*any"], known: Sequence[str] | None, name: str
) -> tuple[tuple[str, ...] | None, Int32[np.ndarray, " n"]]:
    """Class names and numbers of an array of labels: integers, whose names are `known` (or None), or texts.

    Raises: ValueError for labels of another kind, or outside of the known classes.
    """
    if values.dtype.kind in "US" and values.ndim == 1:
        texts = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
        return numbered(texts.tolist(), known, f"Labels {name!r}")
    labels = as_labels(values, name)
    if known is None:
        return None, labels
    if labels.size and labels.max() >= len(known):
        raise ValueError(
            f"Labels {name!r} need a name for each class in class_names, got {len(known)} names and the label {labels.max()}."
        )
    return tuple(normal(name) for name in known), labels
