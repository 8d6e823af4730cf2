"""A config as plain JSON values, the fields that a run may change, and the differences of two configs."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from score_sde.config.building import Catalogues, fixed_section, made, section_options
from score_sde.config.options import Option, options_of
from score_sde.config.sections import Schedule, Settings

FREE_SECTIONS = ("sampling", "likelihood", "training", "mesh")  # how to continue training, sample and measure
# These fields do not change the updates, except by rounding. data.on_error changes only updates that could not be made.
FREE_FIELDS = ("network.remat", "network.attention", "optimizer.accumulation_steps", "data.on_error")
LASTING_FIELDS = ("training.batch_size",)  # in a free section, but the position in the data depends on it


def section_at(config: Any, path: str) -> Any:
    """The value at a dotted path, or None where there is none."""
    for name in path.split("."):
        config = config.get(name) if isinstance(config, ConfigDict | Mapping) else None
    return config


def shared_sections(config: ConfigDict) -> list[tuple[str, str]]:
    """Pairs of paths at which a config holds the same object, so that a field set in one is set in both."""
    paths: dict[int, str] = {}
    pairs: list[tuple[str, str]] = []

    def visit(section: ConfigDict, prefix: str) -> None:
        for name, value in section.items(preserve_field_references=True):
            if isinstance(value, ConfigDict):
                path = f"{prefix}{name}"
                if id(value) in paths:
                    pairs.append((paths[id(value)], path))
                else:
                    paths[id(value)] = path
                    visit(value, f"{path}.")

    visit(config, "")
    return pairs


def plain(value: Any) -> Any:
    """Sections as dicts of JSON values. Tuples become lists."""
    return json.loads(value.to_json_best_effort() if isinstance(value, ConfigDict) else json.dumps(value))


def lasting(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that cannot change after a run has begun: all but the free sections."""
    return {name: section for name, section in config.items() if name not in FREE_SECTIONS}


def may_change(field: str) -> bool:
    """Whether a field, by its dotted path, may differ between a checkpoint and a resume from it."""
    section = field.split(".")[0]
    return field in FREE_FIELDS or (section in FREE_SECTIONS and field not in LASTING_FIELDS)


def changes(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The dotted fields in which two plain configs differ, with both values.

    A value is "absent" where one config has no such field.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for name in sorted(there.keys() | here.keys()):
        old, new = there.get(name, "absent"), here.get(name, "absent")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= changes(old, new, f"{prefix}{name}.")
        elif json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
            found[f"{prefix}{name}"] = old, new
    return found


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The dotted fields in which two plain configs differ, with both values, as texts."""
    return [f"{field}: {old!r} there, {new!r} here" for field, (old, new) in changes(there, here).items()]


def completed(config: Mapping[str, Any], catalogues: Catalogues) -> dict[str, Any]:
    """A plain config with the fields that its sections leave out, at the values that their classes give them."""
    filled = plain(ConfigDict(config))
    _complete("", options_of(Settings).fields, filled, catalogues)
    schedule = made(Schedule, filled["optimizer"]["schedule"]).over(filled["training"]["num_steps"])
    filled["optimizer"]["schedule"] = dataclasses.asdict(schedule)
    return filled


def _complete(path: str, fields: Mapping[str, Option], section: dict[str, Any], catalogues: Catalogues) -> None:
    for name, option in fields.items():
        here = f"{path}.{name}".lstrip(".")
        fixed, family, given = fixed_section(option.annotation), None, section.get(name)
        if fixed is not None:
            given = section.setdefault(name, {})
            _complete(here, section_options(here, fixed, given, catalogues).fields, given, catalogues)
            continue
        family = catalogues.family(here, option.annotation)
        if given is None and isinstance(option.default, dict) and option.default:
            section[name] = given = plain(option.default)
        if family is not None and isinstance(given, dict):
            given["name"] = family.canonical(here, given.get("name"))
            options = options_of(family.find(here, given["name"]), family.num_args)
            _complete(here, options.fields, given, catalogues)
            # [] and {} mean the same as None.
            given |= {field: None for field, value in given.items() if value in ([], {})}
        elif option.default is None or isinstance(option.default, bool | int | float | str | list | tuple):
            section.setdefault(name, plain(option.default))
