"""The fields of a section: the parameters of the class or function that it becomes, with their docs."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

_HEADING = re.compile(r"^(Args|Arguments|Attributes|Fields):\s*$")


class Option(NamedTuple):
    """A field of a section. `default` is REQUIRED where the field must be given."""

    annotation: Any
    default: Any
    doc: str = ""


class Options(NamedTuple):
    """The fields by name.

    With `is_open`, other fields are allowed too. With `has_name`, a name is a field, which selects
    the class with these fields.
    """

    fields: dict[str, Option]
    is_open: bool = False
    has_name: bool = False


REQUIRED = inspect.Parameter.empty


@functools.cache
def options_of(target: Callable[..., Any], num_args: int = 0) -> Options:
    """The fields for a call of `target`, without its first `num_args` arguments, which no config contains."""
    docs, is_open = field_docs(target), False
    own = dataclasses.fields(target) if isinstance(target, type) and dataclasses.is_dataclass(target) else ()
    factories = {field.name: field.default_factory for field in own if field.default_factory is not dataclasses.MISSING}
    fields: dict[str, Option] = {}
    parameters = _signature(target).parameters
    added_by_flax = ("parent", "name") if "parent" in parameters else ()
    for parameter in list(parameters.values())[num_args:]:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL and parameter.name not in added_by_flax:
            annotation = Any if parameter.annotation is inspect.Parameter.empty else parameter.annotation
            default = factories.get(parameter.name, lambda default=parameter.default: default)()
            fields[parameter.name] = Option(annotation, default, docs.get(parameter.name, ""))
    return Options(fields, is_open)


def _signature(target: Callable[..., Any]) -> inspect.Signature:
    """The signature, with text annotations evaluated where their names are known."""
    try:
        return inspect.signature(target, eval_str=True)
    except (NameError, SyntaxError, TypeError, AttributeError):
        return inspect.signature(target)


def field_docs(target: Callable[..., Any]) -> dict[str, str]:
    """The entries of the Google-style sections Args and Attributes in the docstrings of `target` and its bases."""
    target = written(target)
    classes = reversed(target.__mro__) if isinstance(target, type) else [target]
    docs: dict[str, str] = {}
    for source in classes:
        text = inspect.cleandoc(source.__doc__ or "")
        docs |= {name: " ".join(lines) for name, lines in _split(text)[1].items()}
    return docs


def summary(target: Callable[..., Any]) -> str:
    """The first line of a docstring, or "" where there is none or a dataclass made it."""
    return own_doc(target).partition("\n")[0]


def own_doc(target: Callable[..., Any]) -> str:
    """The docstring of a person, without its Args and Attributes."""
    target = written(target)
    text = inspect.cleandoc(getattr(target, "__doc__", None) or "")
    by_itself = dataclasses.is_dataclass(target) and text.startswith(f"{getattr(target, '__name__', '')}(")
    return "" if by_itself else _split(text)[0]


def written(target: Callable[..., Any]) -> Callable[..., Any]:
    """The class or function itself, without the fields that `functools.partial` has set."""
    return written(target.func) if isinstance(target, functools.partial) else target


def _split(text: str) -> tuple[str, dict[str, list[str]]]:
    """(the text without its sections Args and Attributes, the lines of each entry of these sections)."""
    rest: list[str] = []
    entries: dict[str, list[str]] = {}
    inside, name = False, ""
    for line in text.splitlines():
        if _HEADING.match(line):
            inside = True
        elif inside and line and not line.startswith(" "):
            inside = False
        if not inside:
            rest.append(line)
        elif start := re.match(r"^ {2,4}\*{0,2}(\w+)(?: \([^)]*\))?: (.*)$", line):
            name = start[1]
            entries[name] = [start[2].strip()]
        elif name and line.strip() and not _HEADING.match(line):
            entries[name].append(line.strip())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(rest)).strip(), entries
