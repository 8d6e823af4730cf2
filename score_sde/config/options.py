"""The fields that a section may have: the parameters of the class or function that is made from it, with their docs."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

_HEADING = re.compile(r"^(Args|Arguments|Attributes|Fields):\s*$")


class Option(NamedTuple):
    """A field that a section may have. `default` is REQUIRED where it must be given."""

    annotation: Any
    default: Any
    doc: str = ""


class Options(NamedTuple):
    """The fields by name; with `is_open` any other is taken too."""

    fields: dict[str, Option]
    is_open: bool = False


REQUIRED = inspect.Parameter.empty


@functools.cache
def options_of(target: Callable[..., Any], num_args: int = 0) -> Options:
    """The fields that make a call of `target`, whose first `num_args` arguments no config holds."""
    docs, is_open = field_docs(target), False
    fields: dict[str, Option] = {}
    parameters = _signature(target).parameters
    added_by_flax = ("parent", "name") if "parent" in parameters else ()
    for parameter in list(parameters.values())[num_args:]:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL and parameter.name not in added_by_flax:
            annotation = Any if parameter.annotation is inspect.Parameter.empty else parameter.annotation
            fields[parameter.name] = Option(annotation, parameter.default, docs.get(parameter.name, ""))
    return Options(fields, is_open)


def _signature(target: Callable[..., Any]) -> inspect.Signature:
    """With annotations evaluated where they are texts and their names are known."""
    try:
        return inspect.signature(target, eval_str=True)
    except (NameError, SyntaxError, TypeError, AttributeError):
        return inspect.signature(target)


def field_docs(target: Callable[..., Any]) -> dict[str, str]:
    """The entries of the Google-style sections Args and Attributes in the docstrings of `target` and its bases."""
    classes = reversed(target.__mro__) if isinstance(target, type) else [target]
    docs: dict[str, str] = {}
    for source in classes:
        docs |= _entries(inspect.cleandoc(source.__doc__ or ""))
    return docs


def summary(target: Callable[..., Any]) -> str:
    """The first line of a docstring; "" for none, or for the one that a dataclass writes itself."""
    text = own_doc(target)
    return text.splitlines()[0] if text else ""


def own_doc(target: Callable[..., Any]) -> str:
    """The docstring that a person wrote, without indentation."""
    text = inspect.cleandoc(getattr(target, "__doc__", None) or "")
    name = getattr(target, "__name__", "")
    return "" if dataclasses.is_dataclass(target) and text.startswith(f"{name}(") else text


def _entries(text: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    lines = text.splitlines()
    for number, line in enumerate(lines):
        heading = _HEADING.match(line)
        if heading is None:
            continue
        name = ""
        for entry in lines[number + 1 :]:
            if entry and not entry.startswith(" "):
                break
            start = re.match(r"^ {2,4}(\w+)(?: \([^)]*\))?: (.*)$", entry)
            if start:
                name, entries[start[1]] = start[1], start[2].strip()
            elif name and entry.strip():
                entries[name] += " " + entry.strip()
    return entries
