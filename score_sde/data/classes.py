"""Classes by name: how names become numbers, in the same way for training, held-out data and sampling."""

import dataclasses
import difflib
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int32, Integer, Shaped

from score_sde.data.base import DataSpec, Examples, Source, as_labels

LISTED = 20  # the most names that a message lists


def normal(name: str) -> str:
    r"""A name in Unicode's composed form (NFC).

    macOS writes the "é" of a file name decomposed, and other systems write it as it was typed.
    Bytes of a file name that are not text become \xff, so that the name can be printed.
    """
    printable = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", printable)


def number_of(name: str, known: Sequence[str], who: str) -> int:
    """The number of the class `name` among the `known` names.

    Raises: ValueError with the known names, the closest first.
    """
    if normal(name) in known:
        return known.index(normal(name))
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    listed = [*close, *(other for other in known if other not in close)]
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    raise ValueError(
        f"{who} has the class {name!r}, which is not among the {len(known)} known classes: "
        f"{', '.join(map(repr, listed[:LISTED]))}{more}."
    )


def numbered(
    names: Iterable[str], known: Sequence[str] | None, who: str
) -> tuple[tuple[str, ...], Int32[np.ndarray, " n"]]:
    """(class names, the number of each label), in the order of `known`, or in alphabetical order for None."""
    labels = [normal(name) for name in names]
    different = sorted(set(labels))
    classes = tuple(different) if known is None else tuple(normal(name) for name in known)
    number = {name: number_of(name, classes, who) for name in different}
    return classes, np.array([number[label] for label in labels], np.int32)


def labels_of(
    values: Shaped[np.ndarray, "*any"], known: Sequence[str] | None, name: str
) -> tuple[tuple[str, ...] | None, Int32[np.ndarray, " n"]]:
    """(class names, class numbers) of an array of labels, which are integers or texts.

    The names of integers are `known`, or None.

    Raises: ValueError for labels of another kind, or outside of the known classes.
    """
    if values.dtype.kind in "US" and values.ndim == 1:
        try:
            texts = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Labels {name!r} need texts in UTF-8, got {error.object!r}; decode them first."
            ) from error
        return numbered(texts.tolist(), known, f"Labels {name!r}")
    labels = as_labels(values, name)
    if known is None:
        return None, labels
    if labels.size and labels.max() >= len(known):
        raise ValueError(
            f"Labels {name!r} need a name for each class in class_names, got {len(known)} names and the label {labels.max()}."
        )
    return tuple(normal(name) for name in known), labels


def class_number(label: int | str, spec: DataSpec, who: str) -> int:
    """The number of a class that is given by its number or its name.

    Raises: ValueError for a label that is not a class, or that is the number of one class and the
      name of another.
    """
    count, names = spec.num_classes or 0, _names(spec)
    if isinstance(label, str):
        return number_of(label, names, who)
    if not 0 <= label < count:
        raise ValueError(
            f"{who} needs 0 <= label < {count}, or a class name, or None for all in turn, got {label}; the network's null "
            "class is never shown to it in training."
        )
    if str(label) in names and names[label] != str(label):
        raise ValueError(
            f"{who}={label} may be the class number {label}, {names[label]!r}, or the class named {str(label)!r}; give the "
            f"name as a text with quotes: '\"{names[label]}\"' or '\"{label}\"'."
        )
    return label


class Renumbered(Source):
    """The examples of `source` with its classes numbered as in `spec`, by name.

    A class without a name has its number as its name.

    Args:
      who: the name of the source in messages.
    Raises: ValueError for a class of `source` that `spec` does not have.
    """

    def __init__(self, source: Source, spec: DataSpec, who: str):
        self._source, known = source, _names(spec)
        try:
            numbers = [number_of(name, known, who) for name in _names(source.spec)]
        except ValueError as error:
            raise ValueError(f"{error} {_advice(source.spec, spec)}") from error
        self._numbers = np.array(numbers, np.int32)
        self.spec = dataclasses.replace(source.spec, num_classes=spec.num_classes, class_names=spec.class_names)

    def __len__(self) -> int:
        return len(self._source)

    def digest(self) -> str | None:
        """The digest of the source, which does not depend on the numbers."""
        return self._source.digest()

    def summary(self) -> str:
        """The summary of the source."""
        return self._source.summary()

    def gather(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        """The examples of the source, renumbered."""
        batch = self._source.gather(indices)
        return {**batch, "label": self._numbers[batch["label"]]}

    def labels_at(self, indices: Integer[np.ndarray, " b"]) -> Int32[np.ndarray, " b"]:
        """The labels of the source, renumbered."""
        return self._numbers[self._source.labels_at(indices)]


def numbered_like(source: Source, spec: DataSpec, who: str) -> Source:
    """The source with its classes numbered as in `spec`.

    The source is unchanged where the numbers agree already, or where one of the two has no labels.
    """
    own = source.spec
    if own.num_classes is None or spec.num_classes is None or _names(own) == _names(spec):
        return source
    return Renumbered(source, spec, who)


def _names(spec: DataSpec) -> list[str]:
    return [spec.class_name(number) for number in range(spec.num_classes or 0)]


def _advice(there: DataSpec, here: DataSpec) -> str:
    if (there.class_names is None) == (here.class_names is None):
        return "Remove its examples, or train with this class too (an empty class can be given by class_names)."
    return "Labels of one are numbers and of the other names; give the names of the numbers, in order, by class_names."
