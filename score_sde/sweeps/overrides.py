"""Overrides of a config: checked and typed here, and written as the command line that a user could have typed.

`experiments.train` reads `--config.FIELD=VALUE` with ml_collections' config_flags, which parses VALUE as the type that the
field has in the file. A value of another type (None for a number), or a field that only a replaced section has, cannot be
passed so; then the section around it is passed whole, as a Python literal. Every command line is parsed back, by the same
config_flags, before anything starts.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from score_sde.building import closest
from score_sde.plain_config import differences, plain


def load_config(arguments: Sequence[str]) -> ConfigDict:
    """The config that `experiments.train` makes of ["--config=FILE[:variant]", "--config.FIELD=VALUE", …].

    Raises: ValueError when the file, a field or a value is refused.
    """
    values = flags.FlagValues()
    command = ["sweep", *arguments]
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=command)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # config_flags loads modules in an old way
            values(command)
        config: Any = values["config"].value
        list(config)  # a file that could not be loaded says so only when it is looked at
    except (flags.Error, AttributeError, OSError, KeyError) as error:
        raise ValueError(f"{' '.join(arguments)} cannot be read: {error}") from error
    return config


def resolve(base: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """A copy of `base` with the overrides, whole sections before fields in them; whole numbers become real where needed.

    Raises: ValueError for a field that the config does not have, naming the closest, or a value of another type.
    """
    config = base.copy_and_resolve_references()
    for path in sorted(overrides, key=lambda path: path.count(".")):
        *parents, name = path.split(".")
        section = config
        for parent in parents:
            section = section.get(parent) if isinstance(section, ConfigDict) else None
        if not isinstance(section, ConfigDict) or name not in section:
            known = list(_paths(config))
            here = list(section) if isinstance(section, ConfigDict) else list(config)
            raise ValueError(
                f"A sweep needs fields of the config, got {path!r}; known here: {here}.{closest(path, known)}"
            )
        with section.ignore_type():
            section[name] = _typed(path, section[name], overrides[path])
    return config


def command_line(path: str, overrides: Mapping[str, Any]) -> tuple[list[str], ConfigDict]:
    """(["--config=PATH", "--config.FIELD=VALUE", …], the config that they make).

    Raises: ValueError for an override that the config or the command line cannot take.
    """
    base = load_config([f"--config={path}"])
    wanted = resolve(base, overrides)
    fields = {_passable(base, wanted, field) for field in overrides}
    fields = {field for field in fields if not any(field.startswith(other + ".") for other in fields)}
    ordered = sorted(fields, key=lambda field: (field.count("."), field))
    arguments = [f"--config={path}", *(f"--config.{field}={_text(_get(wanted, field))}" for field in ordered)]
    try:
        lost = differences(plain(wanted), plain(load_config(arguments)))
    except ValueError as error:
        lost = [str(error)]
    if lost:
        raise ValueError(
            f"The command line cannot pass {dict(overrides)} to {path}; write a config file with them. ({'; '.join(lost)})"
        )
    return arguments, wanted


def _typed(path: str, current: Any, value: Any) -> Any:
    """`value` as the type of `current`, where that loses nothing."""
    if isinstance(value, Mapping):
        value = ConfigDict(dict(value))
    if isinstance(current, tuple) and isinstance(value, list):
        return tuple(value)
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(current, float) and is_int:
        return float(value)
    if type(current) is int and isinstance(value, float) and value.is_integer():
        return int(value)
    alike = type(value) is type(current) or (isinstance(value, list | tuple) and isinstance(current, list | tuple))
    if value is not None and current is not None and not alike:
        raise ValueError(f"{path} needs a value like {plain(current)!r}, got {value!r}.")
    return value


def _passable(base: ConfigDict, wanted: ConfigDict, field: str) -> str:
    """The field, or the section around it that the command line can pass instead."""
    current, value = _get(base, field), _get(wanted, field)
    parsed = (bool, int, float, str, tuple, ConfigDict)
    if type(current) in parsed and type(current) is type(value):
        return field
    parent = field.rpartition(".")[0]
    return _passable(base, wanted, parent) if parent else field


def _get(config: ConfigDict, path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    value: Any = config
    for name in path.split("."):
        value = value.get(name) if isinstance(value, ConfigDict) else None
    return value


def _text(value: Any) -> str:
    """What config_flags reads as `value`."""
    return value if isinstance(value, str) else _literal(value)


def _literal(value: Any) -> str:
    """A Python literal with double quotes, which a shell takes between single ones; a section's name comes first."""
    if isinstance(value, ConfigDict | dict):
        names = sorted(value, key=lambda name: (name != "name", name))
        return "{" + ", ".join(f"{json.dumps(name)}: {_literal(value[name])}" for name in names) + "}"
    if isinstance(value, tuple):
        return "(" + "".join(f"{_literal(part)}, " for part in value).rstrip(" " if len(value) == 1 else ", ") + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _paths(config: ConfigDict, prefix: str = "") -> list[str]:
    """All dotted paths."""
    found = []
    for name, value in config.items():
        found.append(prefix + name)
        if isinstance(value, ConfigDict):
            found += _paths(value, f"{prefix}{name}.")
    return found
