"""A config as plain JSON values, the fields that its sections have, which of them a run may change, and how two differ."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeGuard

from ml_collections import ConfigDict

FREE_SECTIONS = ("sampling", "likelihood", "training", "mesh")  # how to train on, sample and measure


class Field(NamedTuple):
    """What a field of a section may be, in words and as a test; with `optional` a config may lack it."""

    allowed: str = "anything"
    accepts: Callable[[Any], bool] = lambda value: True
    optional: bool = False


def is_whole(value: Any, least: int) -> bool:
    """Whether `value` is a whole number, and not below `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a real or whole number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(least: int, optional: bool = False) -> Field:
    return Field(f"a whole number >= {least}", lambda value: is_whole(value, least), optional)


def _whole_or_none(least: int) -> Field:
    return Field(f"a whole number >= {least} or None", lambda value: value is None or is_whole(value, least), True)


def _are_half_lives(value: Any) -> bool:
    listed = isinstance(value, list | tuple)
    return listed and all(is_number(v) and v > 0 for v in value) and len({f"{v:g}" for v in value}) == len(value)


_SECTION, _OPTIONAL = Field(), Field(optional=True)  # which the section's own catalogue, or what it is given to, checks
_FLAG = Field("True or False", lambda value: isinstance(value, bool), optional=True)
_SIZES = Field(
    "one size for each spatial axis, as (32, 32), or None",
    lambda value: value is None or (isinstance(value, list | tuple) and all(is_whole(size, 1) for size in value)),
    optional=True,
)
_LABEL = Field(
    "a whole number >= 0, a class name or None",
    lambda value: value is None or isinstance(value, str) or is_whole(value, 0),
    optional=True,
)
_POSITIVE = Field("a number > 0", lambda value: is_number(value) and value > 0)
_NOT_NEGATIVE = Field("a number >= 0", lambda value: is_number(value) and value >= 0)
HALF_LIVES = Field("different numbers > 0, as (500.0,), or ()", _are_half_lives)
RAMPUP = Field("a number > 0 or None", lambda value: value is None or (is_number(value) and value > 0))

# Of the sections that no catalogue builds. Fields that came later, or that few need, are optional.
SECTION_FIELDS: dict[str, dict[str, Field]] = {
    "data": {"train": _SECTION, "eval": _SECTION, "augment": _SECTION},
    "data.augment": {"random_flip": _FLAG, "crop": _SIZES, "dequantize": _FLAG},
    "ema": {"half_lives_kimg": HALF_LIVES, "rampup_ratio": RAMPUP},
    "mesh": dict.fromkeys(("num_devices", "data", "fsdp", "tensor"), _OPTIONAL),
    "training": {
        "num_steps": _whole(1),
        "batch_size": _whole(1),
        "eval_batch_size": _whole(1),
        "log_every": _whole(1),
        "eval_every": _whole(0, optional=True),
        "eval_levels": _whole(1, optional=True),
        "sample_every": _whole(0, optional=True),
        "checkpoint_every": _whole(0),
        "keep_checkpoints": _whole_or_none(1),
        "keep_every": _whole_or_none(1),
        "nonfinite": _OPTIONAL,
        "max_skips": _OPTIONAL,
    },
    "sampling": {
        "solver": _SECTION,
        "grid": _SECTION,
        "num_preview": _whole(1, optional=True),
        "label": _LABEL,
        "threshold": _OPTIONAL,
    },
    "likelihood": {
        "t_min": _NOT_NEGATIVE,
        "rtol": _NOT_NEGATIVE,
        "atol": _POSITIVE,
        "divergence": _SECTION,
        "num_repeats": _whole(1),
        "batch_size": _whole(1),
    },
}


def section_at(config: Any, path: str) -> Any:
    """What stands at a dotted path; None where there is nothing."""
    for name in path.split("."):
        config = config.get(name) if isinstance(config, ConfigDict | Mapping) else None
    return config


def shared_sections(config: ConfigDict) -> list[tuple[str, str]]:
    """Pairs of paths at which a config holds one and the same section, so that a field set in one is set in both."""
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
