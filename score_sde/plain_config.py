"""A config as plain JSON values, which part of it a run may change when it goes on, and how two differ."""

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

FREE_SECTIONS = ("sampling", "likelihood", "training", "mesh")  # how to train on, sample and measure


def plain(value: Any) -> Any:
    """Sections as dicts of JSON values; tuples become lists."""
    return json.loads(value.to_json_best_effort() if isinstance(value, ConfigDict) else json.dumps(value))


def lasting(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that cannot change in a run that has begun: all but the free ones."""
    return {name: section for name, section in config.items() if name not in FREE_SECTIONS}


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted fields in which two plain configs differ, with both values."""
    found = []
    for name in sorted(there.keys() | here.keys()):
        old, new = there.get(name, "absent"), here.get(name, "absent")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{name}.")
        elif json.dumps(old) != json.dumps(new):
            found.append(f"{prefix}{name}: {old!r} there, {new!r} here")
    return found
