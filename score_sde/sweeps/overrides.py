"""Overrides of a config: checked and typed, and written as the command line that a user could type.

Training reads `--config.FIELD=VALUE` by `score_sde.config.overrides`. Every command line is read
back in the same way before any trial starts.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from score_sde import config as configs
from score_sde.catalogues import CATALOGUES
from score_sde.config import apply_overrides, apply_values, differences, literal, plain, section_at


def load_config(arguments: Sequence[str]) -> ConfigDict:
    """The config that training makes of ["--config=FILE[:variant]", "--config.FIELD=VALUE", …].

    Raises: ValueError for a file, a field or a value that is not accepted.
    """
    (name,) = [argument.partition("=")[2] for argument in arguments if argument.startswith("--config=")]
    fields = [argument.removeprefix("--config.").partition("=") for argument in arguments if "--config." in argument]
    try:
        config = configs.load_config(name)
    except OSError as error:
        raise ValueError(f"--config={name} cannot be read: {error}") from error
    apply_overrides(config, [(path, text) for path, _, text in fields], CATALOGUES)
    return config


def resolve(base: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """A copy of `base` with the overrides, whole sections before the fields in them.

    Whole numbers become real numbers where the field is real.

    Raises: ValueError for a field that the config does not have, with the closest name, or for a
      value of another type.
    """
    config = base.copy_and_resolve_references()
    apply_values(config, [(path, _typed(section_at(base, path), overrides[path])) for path in overrides], CATALOGUES)
    return config


def command_line(path: str, overrides: Mapping[str, Any]) -> tuple[list[str], ConfigDict]:
    """(["--config=PATH", "--config.FIELD=VALUE", …], the config that these words make).

    Raises: ValueError for an override that the config or the command line cannot take.
    """
    wanted = resolve(load_config([f"--config={path}"]), overrides)
    fields = [field for field in overrides if not any(field.startswith(f"{other}.") for other in overrides)]
    ordered = sorted(fields, key=lambda field: (field.count("."), field))
    arguments = [f"--config={path}", *(f"--config.{field}={_text(section_at(wanted, field))}" for field in ordered)]
    lost = differences(plain(wanted), plain(load_config(arguments)))
    if lost:
        raise ValueError(
            f"The command line cannot pass {dict(overrides)} to {path}; write a config file with them. ({'; '.join(lost)})"
        )
    return arguments, wanted


def _typed(current: Any, value: Any) -> Any:
    """The value. A whole number becomes real where the config has a real number.

    So 1 and 1.0 are the same point of a sweep.
    """
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if isinstance(current, float) and is_whole else value


def _text(value: Any) -> str:
    """The text from which the command line reads `value`."""
    return value if isinstance(value, str) and literal(value) == value else _literal(value)


def _literal(value: Any) -> str:
    """A Python literal with double quotes, which a shell accepts between single quotes. A section's name comes first."""
    if isinstance(value, ConfigDict | dict):
        names = sorted(value, key=lambda name: (name != "name", name))
        return "{" + ", ".join(f"{json.dumps(name)}: {_literal(value[name])}" for name in names) + "}"
    if isinstance(value, tuple):
        return "(" + "".join(f"{_literal(part)}, " for part in value).rstrip(" " if len(value) == 1 else ", ") + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else repr(value)
