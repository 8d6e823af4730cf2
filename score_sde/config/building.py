"""Checks the sections of a config, and builds objects from them.

A section becomes a dataclass of `sections`, or a member of a catalogue, which its `name` selects.
In both cases the fields of the section are the parameters of that class (`options`). Their
annotations say which values are allowed (`kinds`).
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from score_sde.config import kinds
from score_sde.config.kinds import Refused, shown
from score_sde.config.lookup import Family, Members, check_names, closest
from score_sde.config.options import REQUIRED, Option, Options, options_of
from score_sde.config.sections import MEMBER, MEMBERS, REST, Settings

Section = dict[str, Any]
T = TypeVar("T")

MOVED = {"training.num_devices": "mesh.num_devices"}  # where fields of earlier versions are now


@dataclasses.dataclass(frozen=True)
class Catalogues:
    """The families of members, by the path of a section, and by the class that annotates a field of a member.

    Without families, sections that name a member are not checked, and nothing heavy is imported.
    """

    at: Mapping[str, Family] = dataclasses.field(default_factory=dict)
    of: Mapping[type, Family] = dataclasses.field(default_factory=dict)

    def family(self, path: str, annotation: Any) -> Family | None:
        """The family whose members are the values of a field. None where the field has no members as values."""
        if path in self.at:
            return self.at[path]
        for member in kinds.types_of(annotation):
            for base, family in self.of.items():
                if isinstance(member, type) and issubclass(member, base):
                    return dataclasses.replace(family, base=member)
        return None


NO_CATALOGUES = Catalogues()


def is_member(annotation: Any) -> bool:
    """Whether a field of a fixed section is a section with a name."""
    return any(MEMBER in typing.get_args(t) for t in kinds.types_of(annotation) if typing.get_origin(t) is Annotated)


def is_members(annotation: Any) -> bool:
    """Whether a field of a fixed section is a list of sections with a name."""
    return typing.get_origin(annotation) is Annotated and MEMBERS in typing.get_args(annotation)


def fixed_section(annotation: Any) -> type | None:
    """The dataclass of `sections` that a field becomes. None where the field is not a fixed section."""
    is_section = isinstance(annotation, type) and annotation.__module__ == Settings.__module__
    return annotation if is_section else None


def checked_config(config: Mapping[str, Any], catalogues: Catalogues) -> Section:
    """A whole config as plain values, with the types of its sections. Fields that it leaves out stay left out.

    Raises: ValueError for an unknown section, name or field, a missing one, or a value that is not
      allowed.
    """
    sections = [name for name in options_of(Settings).fields if name != "seed"]
    required = [name for name, option in options_of(Settings).fields.items() if option.default is REQUIRED]
    missing = [name for name in required if name not in config]
    unknown = [name for name in config if name not in (*sections, "seed")]
    if missing or unknown:
        hint = closest(unknown[0], sections) if unknown else ""
        raise ValueError(
            f"A config needs the sections {sections} and a seed; missing {missing}, unknown {unknown}.{hint}"
        )
    for old, new in MOVED.items():
        section, field = old.split(".")
        if isinstance(config[section], Mapping) and field in config[section]:
            raise ValueError(f"{old} is now {new}, got {config[section][field]!r}; move it to the section mesh.")
    return _checked_fields("", Options(options_of(Settings).fields), config, catalogues, "it")


def checked_section(path: str, target: type, given: Any, catalogues: Catalogues) -> Section:
    """A fixed section as plain values, with the types of its dataclass.

    Raises: ValueError for an unknown field, a missing one, or a value that is not allowed.
    """
    if not isinstance(given, Mapping):
        fields = list(options_of(target).fields)
        raise ValueError(f"config.{path} needs a section with the fields {fields}, got {shown(given)}.")
    given = dict(given)
    if path in catalogues.at and "name" in given:
        given["name"] = catalogues.at[path].canonical(path, given["name"])
    of = repr(given["name"]) if "name" in given else "it"
    return _checked_fields(path, section_options(path, target, given, catalogues), given, catalogues, of)


def section_options(path: str, target: type, given: Mapping[str, Any], catalogues: Catalogues) -> Options:
    """The fields of a fixed section. For `Optimizer`, also the fields of the optimizer that it names."""
    fields = options_of(target).fields
    rest = [name for name, option in fields.items() if REST in typing.get_args(option.annotation)]
    fixed = {name: option for name, option in fields.items() if name not in rest}
    if not rest:
        return Options(fixed)
    if path not in catalogues.at:
        return Options(fixed, is_open=True)
    family = catalogues.at[path]
    name = family.canonical(path, given.get("name", fields["name"].default))
    own = options_of(family.members[name], family.num_args).fields
    return Options(fixed | {n: option for n, option in own.items() if n not in (*fixed, *family.ours)})


def checked_member(path: str, family: Family, given: Any, catalogues: Catalogues) -> Section:
    """A section with a name as plain values, with the types of the member that it names.

    The name becomes the catalogue's spelling.

    Raises: ValueError as `checked_section`, and for an unknown name.
    """
    if not isinstance(given, Mapping):
        known = sorted(family.members)
        raise ValueError(
            f"config.{path} needs a section with a name, as {{'name': {known[0]!r}}}, got {shown(given)}; the names are "
            f"{known}."
        )
    name = family.canonical(path, given.get("name"))
    options = options_of(family.find(path, name), family.num_args)
    fields = {field: value for field, value in given.items() if field != "name"}
    checked = _checked_fields(path, options, fields, catalogues, repr(name), family.infinite)
    for field, option in options.fields.items():
        if family.largest is not None and field in checked:
            _check_size(f"{path}.{field}", option, checked[field], family.largest)
    return {"name": name} | checked


def _check_size(path: str, option: Option, value: Any, largest: int) -> None:
    """Raises ValueError for a whole number above `largest` that is not the default of the field."""
    is_count = int in kinds.members(option.annotation) or kinds.is_sequence(option.annotation)
    for number in value if isinstance(value, tuple) else (value,):
        if is_count and isinstance(number, int) and abs(number) > largest and number != option.default:
            raise ValueError(f"config.{path} needs whole numbers up to {largest:,}, got {shown(value)}.")


def checked_members(path: str, family: Family, given: Any, catalogues: Catalogues) -> tuple[Section, ...]:
    """A list of sections with a name.

    A name alone is the section with its defaults, and one member alone is a list with that member.

    Raises: ValueError as `checked_member`.
    """
    items = [given] if isinstance(given, str | Mapping) else given
    if not isinstance(items, list | tuple):
        raise ValueError(
            f"config.{path} needs a list of names of {sorted(family.members)} or of sections with a name, as "
            f"[{{'name': {sorted(family.members)[0]!r}}}], got {shown(given)}."
        )
    sections = [{"name": item} if isinstance(item, str) else item for item in items]
    return tuple(checked_member(f"{path}[{i}]", family, section, catalogues) for i, section in enumerate(sections))


def _checked_fields(
    path: str,
    options: Options,
    given: Mapping[str, Any],
    catalogues: Catalogues,
    of: str,
    infinite: tuple[str, ...] = (),
) -> Section:
    if not options.is_open:
        check_names(path, given, list(options.fields), of)
    checked = {}
    for name, value in given.items():
        option = options.fields.get(name, Option(Any, None))
        checked[name] = checked_value(f"{path}.{name}".lstrip("."), option, value, catalogues, name in infinite)
    missing = [name for name, option in options.fields.items() if option.default is REQUIRED and name not in given]
    if missing:
        raise ValueError(
            f"config.{path}: {of} cannot be built without the fields {missing}, got only {[*given]}; add them."
        )
    return checked


def checked_value(path: str, option: Option, value: Any, catalogues: Catalogues, infinite: bool = False) -> Any:
    """A field's value with the type of its annotation.

    Raises: ValueError where the annotation does not allow the value.
    """
    section = fixed_section(option.annotation)
    if section is not None:
        return checked_section(path, section, value, catalogues)
    family = catalogues.family(path, option.annotation)
    if is_members(option.annotation):
        return value if family is None else checked_members(path, family, value, catalogues)
    if (family or is_member(option.annotation)) and not (value is None and kinds.allows_none(option.annotation)):
        return value if family is None else checked_member(path, family, value, catalogues)
    infinite = infinite or (isinstance(option.default, float) and math.isinf(option.default))
    try:
        return kinds.convert(option.annotation, value, infinite)
    except Refused:
        raise ValueError(f"config.{path} needs {kinds.words(option.annotation)}, got {shown(value)}.") from None


def made(target: Callable[..., T], section: Mapping[str, Any]) -> T:
    """The dataclass of `sections` with the values of a checked section. Nested sections are built too."""
    values: dict[str, Any] = {}
    others = dict(section)
    for name, option in options_of(target).fields.items():
        nested = fixed_section(option.annotation)
        if name in others:
            value = others.pop(name)
            values[name] = made(nested, value) if nested else value
        elif REST in typing.get_args(option.annotation):
            values[name] = others
    return target(**values)


def build(
    path: str,
    family: Family | Members,
    section: Mapping[str, Any],
    *args: Any,
    catalogues: Catalogues = NO_CATALOGUES,
) -> Any:
    """The member of `family` that `section["name"]` selects, called with `args` and the other fields of the section.

    Args:
      path: the path of the section in the config, for messages: "sde", "objective.weighting".
      family: the family, or only its members.
      args: positional arguments that the config does not contain.
      catalogues: the catalogues of fields that are sections themselves, at any depth.
    Raises: ValueError for an unknown name or field, or an error of the constructor.
    """
    family = family if isinstance(family, Family) else Family(family, num_args=len(args))
    fields = checked_member(path, family, section, catalogues)
    name = fields.pop("name")
    member = family.find(path, name)
    for field, option in options_of(member, family.num_args).fields.items():
        nested = catalogues.family(f"{path}.{field}", option.annotation)
        if nested is not None and isinstance(fields.get(field), Mapping):
            fields[field] = build(f"{path}.{field}", nested, fields[field], catalogues=catalogues)
    try:
        built = member(*args, **fields)
    except (TypeError, ArithmeticError, LookupError) as error:
        raise ValueError(f"config.{path}: {name!r} cannot be built from {shown(fields)}: {error}") from error
    if family.base is not None and not isinstance(built, family.base):
        raise ValueError(f"config.{path}.name={name} needs to make a {family.base.__name__}, got {shown(built)}.")
    return built
