"""The values that a field of a config may have, from the annotation of the field.

The same annotation serves the checks, the messages and the reference. An annotation is an ordinary
type: int, float, bool, str, None, tuples, mappings, `Literal` and unions of these. `Annotated[int,
at_least(1)]` restricts a type. A union may contain arrays and functions, which only Python code can
give; they are ignored here. A field that allows nothing else allows any value.
"""

import collections.abc
import math
import os
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeGuard

LARGEST_WHOLE = 2**63 - 1
LARGEST_ARRAY_WHOLE = 2**31 - 1  # the largest whole number that can become a JAX array
LARGEST_FLOAT = 3.4028234663852886e38  # the largest float32; a larger number would be infinite
_DEEPEST = 20  # the most levels of dictionaries and lists

_SEQUENCES = (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection, tuple, list)
_MAPPINGS = (collections.abc.Mapping, dict)
_EXACT: dict[Any, type] = {bool: bool, str: str, os.PathLike: str, None: type(None), type(None): type(None)}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


class Refused(ValueError):  # noqa: N818  it never leaves the package
    """A value that an annotation does not allow."""


class Check(NamedTuple):
    """A condition on a value. In `words`, {} is replaced by the words of the type."""

    words: str
    holds: Callable[[Any], bool]


def at_least(least: int) -> Check:
    """value >= least."""
    return Check(f"{{}} >= {least}", lambda value: value >= least)


def above(bound: int) -> Check:
    """value > bound."""
    return Check(f"{{}} > {bound}", lambda value: value > bound)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a real or whole number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value for a message, shortened if it is long."""
    try:
        text = repr(value)
    except ValueError:  # the number has more digits than Python writes
        text = "a number of very many digits"
    return text if len(text) <= 200 else f"{text[:150]} … ({len(text)} characters)"


def types_of(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself where it is not a union."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union that a config can contain, or `Any` where there is none."""
    found = types_of(annotation)
    if complex in found:  # jaxtyping's type of all numbers that JAX accepts
        return (float, type(None)) if type(None) in found else (float,)
    return tuple(member for member in found if not _only_in_python(member)) or (Any,)


def allows_none(annotation: Any) -> bool:
    """Whether None is a value."""
    if typing.get_origin(annotation) is Annotated:
        return allows_none(typing.get_args(annotation)[0])
    return any(member in (None, type(None)) for member in members(annotation))


def is_text(annotation: Any) -> bool:
    """Whether every value but None is a text, so that the words of a user need no quotes."""
    if typing.get_origin(annotation) is Annotated:
        return is_text(typing.get_args(annotation)[0])
    found = [member for member in members(annotation) if member not in (None, type(None))]
    return bool(found) and all(_is_text(member) for member in found)


def is_sequence(annotation: Any) -> bool:
    """Whether every value but None is a tuple. One number then stands for a tuple of one."""
    if typing.get_origin(annotation) is Annotated:
        return is_sequence(typing.get_args(annotation)[0])
    found = [member for member in members(annotation) if member not in (None, type(None))]
    return bool(found) and all((typing.get_origin(member) or member) in _SEQUENCES for member in found)


def is_mapping(annotation: Any) -> bool:
    """Whether some values are dictionaries."""
    return any((typing.get_origin(member) or member) in _MAPPINGS for member in members(annotation))


def words(annotation: Any) -> str:
    """The words of a message for the allowed values of an annotation: "a whole number >= 1 or None"."""
    found = members(annotation)
    none = [member for member in found if member in (None, type(None))]
    texts = dict.fromkeys(_words(member) for member in found if member not in none)
    return " or ".join([*texts, *["None"] * bool(none)])


def convert(annotation: Any, value: Any, infinite: bool = False) -> Any:
    """`value` with the type of an annotation.

    Floats without a fraction become whole numbers where only whole numbers are allowed. Lists
    become tuples.

    Args:
      infinite: whether infinity is allowed.
    Raises: Refused where the annotation does not allow the value.
    """
    found = members(annotation)
    if isinstance(value, float):  # a float stays a float where floats are allowed
        found = tuple(sorted(found, key=lambda member: member is not float))
    largest = LARGEST_ARRAY_WHOLE if _takes_arrays(annotation) and float not in found else LARGEST_WHOLE
    for member in found:
        try:
            return _convert(member, value, infinite, largest)
        except Refused:
            continue
    raise Refused(f"needs {words(annotation)}, got {shown(value)}")


def _convert(member: Any, value: Any, infinite: bool, largest: int) -> Any:
    origin = typing.get_origin(member) or member
    if origin is Annotated:
        inner, *checks = typing.get_args(member)
        value = convert(inner, value, infinite)
        return _checked(value, all(check.holds(value) for check in checks if isinstance(check, Check)))
    if origin is Literal:
        return _one_of(typing.get_args(member), value)
    if origin is int:
        return _whole(value, largest)
    if origin is float:
        return _checked(value, is_number(value) and _is_finite(value, infinite))
    if origin in _SEQUENCES:
        return _tuple(member, value, infinite)
    if origin in _MAPPINGS:
        return _mapping(member, value, infinite)
    if origin in _EXACT:
        return _checked(value, isinstance(value, _EXACT[origin]))
    return _anything(value)


def _checked(value: Any, is_allowed: bool) -> Any:
    if not is_allowed:
        raise Refused
    return value


def _one_of(allowed: tuple[Any, ...], value: Any) -> Any:
    return _checked(value, any(value == choice and type(value) is type(choice) for choice in allowed))


def _whole(value: Any, largest: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _checked(value, isinstance(value, int) and not isinstance(value, bool) and abs(value) <= largest)


def _is_finite(value: float | int, infinite: bool) -> bool:
    """Whether the number fits into float32, or infinity is allowed."""
    if isinstance(value, float) and math.isinf(value):
        return infinite
    return abs(value) <= LARGEST_FLOAT  # False for NaN


def _tuple(member: Any, value: Any, infinite: bool) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise Refused
    inner = typing.get_args(member)
    if typing.get_origin(member) is tuple and inner and inner[-1] is not ...:
        if len(inner) != len(value):
            raise Refused
        return tuple(convert(kind, part, infinite) for kind, part in zip(inner, value, strict=True))
    kind = inner[0] if inner else Any
    return tuple(convert(kind, part, infinite) for part in value)


def _mapping(member: Any, value: Any, infinite: bool) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(map(_is_name, value)):
        raise Refused
    kind = (typing.get_args(member) or (Any, Any))[1]
    return {name: convert(kind, part, infinite) for name, part in value.items()}


def _anything(value: Any, depth: int = 0) -> Any:
    """A value of any type that JSON can hold."""
    if depth > _DEEPEST:
        raise Refused
    if isinstance(value, list | tuple):
        return tuple(_anything(part, depth + 1) for part in value)
    if isinstance(value, Mapping):
        _checked(value, all(map(_is_name, value)))
        return {name: _anything(part, depth + 1) for name, part in value.items()}
    if isinstance(value, int) and not isinstance(value, bool):
        return _whole(value, LARGEST_WHOLE)
    if isinstance(value, float):
        return _checked(value, _is_finite(value, infinite=True))
    return _checked(value, value is None or isinstance(value, str | bool))


def _is_name(name: Any) -> bool:
    """Whether a config can have a field of this name."""
    return isinstance(name, str) and bool(name) and "." not in name


def _is_text(member: Any) -> bool:
    origin = typing.get_origin(member) or member
    return origin in (str, os.PathLike)


def _only_in_python(member: Any) -> bool:
    """Whether no config can contain a value of this type: an array, a function, a complex number."""
    if member in (Any, object, None, type(None)) or isinstance(member, str | typing.TypeVar):
        return False
    origin = typing.get_origin(member) or member
    if origin in (Annotated, Literal, typing.Union, types.UnionType, *_SEQUENCES, *_MAPPINGS):
        return False
    return origin not in (bool, int, float) and not _is_text(member)


def _takes_arrays(annotation: Any) -> bool:
    """Whether a jaxtyping array is among the types of a union."""
    return any(type(member).__module__.startswith("jaxtyping") for member in typing.get_args(annotation))


def _words(member: Any) -> str:
    origin = typing.get_origin(member) or member
    if origin is Annotated:
        inner, *checks = typing.get_args(member)
        text = words(inner)
        for check in checks:
            text = check.words.format(text) if isinstance(check, Check) else text
        return text
    if origin is Literal:
        return f"one of {', '.join(map(repr, typing.get_args(member)))}"
    if origin in _SEQUENCES:
        inner = [kind for kind in typing.get_args(member) if kind is not ...]
        plain = {plural for kind in inner for single in members(kind) if (plural := _PLURALS.get(single))}
        count = f"{len(inner)} " if typing.get_origin(member) is tuple and len(inner) > 1 else ""
        kinds = "numbers" if plain == {"whole numbers", "numbers"} else "".join(plain)
        return f"a tuple of {count}{kinds}" if len(plain) == 1 or kinds == "numbers" else "a tuple"
    if origin in _MAPPINGS:
        return "a dictionary"
    if _is_text(member):
        return "a text"
    return {bool: "True or False", int: "a whole number", float: "a number"}.get(origin, "any plain value")
