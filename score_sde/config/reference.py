"""The reference of configs as text: every section, name and field, from the classes that they become."""

import textwrap
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from score_sde.config import kinds
from score_sde.config.building import Catalogues, fixed_section, is_member, section_options
from score_sde.config.kinds import shown
from score_sde.config.lookup import Family, check_names, closest
from score_sde.config.options import REQUIRED, Option, options_of, own_doc, summary, written
from score_sde.config.sections import Settings

COMMAND = "score-sde config"


class _Node(NamedTuple):
    """A place in the tree of all configs: a fixed section, a catalogue, a member of one, or a field."""

    path: str
    option: Option
    target: Callable[..., Any] | None = None  # a section's dataclass, or a member
    family: Family | None = None
    name: str = ""  # the name of the optimizer, whose own fields belong to its section


def reference(path: str, catalogues: Catalogues) -> str:
    """The text for a path such as "", "training", "training.num_steps", "sde", "sde.vp" or "sde.vp.beta_max".

    Raises: ValueError for a path that does not exist, with the closest one.
    """
    if not path:
        return _sections()
    node = _Node("", Option(Settings, REQUIRED), Settings)
    for name in path.split("."):
        node = _child(node, name, catalogues)
    if node.target is not None:
        return _section(node, catalogues)
    return _names(node) if node.family is not None else _field(node.path, node.option, catalogues)


def _child(node: _Node, name: str, catalogues: Catalogues) -> _Node:
    path = f"{node.path}.{name}".lstrip(".")
    if node.target is not None:
        fields = _fields(node, catalogues)
        if name not in fields and node.path in catalogues.at and node.family is None:
            return node._replace(name=catalogues.at[node.path].canonical(node.path, name))
        if name not in fields and not node.path:
            raise ValueError(f"A config has no section {shown(name)}; it has {[*fields]}.{closest(name, [*fields])}")
        check_names(node.path, [name], list(fields))
        return _node(path, fields[name], catalogues)
    if node.family is None:
        raise ValueError(f"config.{node.path} is a field and has no fields of its own, got {shown(name)}.")
    members = [options_of(member, node.family.num_args).fields for member in node.family.members.values()]
    option = next((fields[name] for fields in members if name in fields), None)
    if option is not None and name not in node.family.members:  # the path names a field without its member
        return _node(path, option, catalogues)
    name = node.family.canonical(node.path, name)
    return node._replace(path=f"{node.path}.{name}", target=node.family.find(node.path, name))


def _node(path: str, option: Option, catalogues: Catalogues) -> _Node:
    target = fixed_section(option.annotation)
    return _Node(path, option, target, None if target else catalogues.family(path, option.annotation))


def _fields(node: _Node, catalogues: Catalogues) -> Mapping[str, Option]:
    target: Any = node.target
    if node.family is not None:
        return options_of(target, node.family.num_args).fields
    return section_options(node.path, target, {"name": node.name} if node.name else {}, catalogues).fields


def _sections() -> str:
    rows = {name: option.doc for name, option in options_of(Settings).fields.items()}
    return "\n".join(f"  {name:17} {_first_upper(doc)}" for name, doc in rows.items())


def _section(node: _Node, catalogues: Catalogues) -> str:
    """A fixed section or a member: its docstring and each field."""
    target: Any = node.target
    title = (
        f"{node.path}: {written(target).__name__}"
        if node.family
        else f"{node.path}{f': {node.name}' * bool(node.name)}"
    )
    doc = own_doc(target)
    fields = [_field(f"{node.path}.{name}", option, catalogues) for name, option in _fields(node, catalogues).items()]
    return "\n\n".join([title, *([doc] if doc else []), *(fields or ["It has no fields."])])


def _names(node: _Node) -> str:
    """A catalogue: each name with the first line of its docstring."""
    family: Any = node.family
    doc = [_first_upper(node.option.doc)] if node.option.doc else []
    rows = [f"  {name}\n      {summary(member)}".rstrip() for name, member in sorted(family.members.items())]
    rows += ["  module:attribute\n      A class of your own."] if family.base else []
    head = f"{node.path}: one of these names; {COMMAND} {node.path}.NAME shows the fields of one"
    return "\n\n".join([head, *doc, "\n".join(rows)])


def _field(path: str, option: Option, catalogues: Catalogues) -> str:
    """A field: its default, its allowed values and its doc."""
    head = path.rpartition(".")[2]
    if fixed_section(option.annotation) is not None:
        allowed = f"a section; {COMMAND} {path} shows its fields"
    elif catalogues.family(path, option.annotation) is not None or is_member(option.annotation):
        none = " or None" if kinds.allows_none(option.annotation) else ""
        allowed = f"a section with a name{none}; {COMMAND} {path} shows the names"
    else:
        allowed = kinds.words(option.annotation)
    if option.default is not REQUIRED and fixed_section(option.annotation) is None:
        head += f" = {shown(option.default)}"
    text = ". ".join(part for part in (_first_upper(allowed), _first_upper(option.doc).rstrip(".")) if part)
    return f"  {head}\n" + textwrap.fill(f"{text}.", 96, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
