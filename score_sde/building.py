"""Config sections become objects: a name looked up in a catalogue, and fields passed to what stands there."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

Catalogue = Mapping[str, Callable[..., Any]]


def closest(name: str, known: list[str]) -> str:
    """' Did you mean …?' where something known is spelt alike, else ''."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def build(kind: str, catalogue: Catalogue, section: Mapping[str, Any], *args: Any, **nested: Catalogue) -> Any:
    """Builds `catalogue[section["name"]](*args, **other fields)`.

    Args:
      kind: how the section is called in the config, for messages: "sde", "objective.weighting".
      args: positional arguments of the constructor that no config holds, such as the SDE of an objective.
      nested: catalogues of the fields that are sections themselves, at any depth.
    Raises: ValueError that lists the known names or fields, with the closest, or tells what the constructor refused.
    """
    fields = dict(section)
    name = fields.pop("name", None)
    known = sorted(catalogue)
    if name not in catalogue:
        raise ValueError(f"config.{kind}.name needs one of {known}, got {name!r}.{closest(str(name), known)}")
    parameters = list(inspect.signature(catalogue[name]).parameters.values())[len(args) :]
    allowed = [parameter.name for parameter in parameters]
    takes_more = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    for field, value in fields.items():
        if field not in allowed and not takes_more:
            raise ValueError(
                f"config.{kind} has the unknown field {field!r}; {name!r} takes {allowed}.{closest(field, allowed)}"
            )
        if isinstance(value, Mapping) and field in nested:
            fields[field] = build(f"{kind}.{field}", nested[field], value, **nested)
    try:
        return catalogue[name](*args, **fields)
    except TypeError as error:
        raise ValueError(f"config.{kind}: {name!r} cannot be built from {fields}: {error}") from error
