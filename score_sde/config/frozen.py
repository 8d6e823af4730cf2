"""A config after objects were built from it. It can be read as before, and a change raises an error.

A change of such a config would have no effect on the objects.
"""

from typing import Any

from ml_collections import ConfigDict


class FrozenConfig(ConfigDict):
    """A ConfigDict without references, whose fields cannot be set or deleted. Lists in it become tuples.

    `FrozenConfigDict` of ml_collections does not accept a list of sections, such as
    sampling.guidance. `copy_and_resolve_references` and `copy.deepcopy` give an ordinary ConfigDict
    with the same values.

    Raises: AttributeError where a field is set or deleted. The message says how to get an
      experiment with the change.
    """

    def __init__(self, sections: ConfigDict | dict[str, Any] | None = None, path: str = "config"):
        super().__init__()
        object.__setattr__(self, "_path", path)
        values = sections.to_dict() if isinstance(sections, ConfigDict) else sections or {}
        for name, value in values.items():
            self._fields[name] = _frozen(value, f"{path}.{name}")

    def __setitem__(self, key: str, value: Any) -> None:
        raise AttributeError(_refusal(f"{self._path}.{key} = {value!r}"))

    def __setattr__(self, attribute: str, value: Any) -> None:
        self[attribute] = value

    def __delitem__(self, key: str) -> None:
        raise AttributeError(_refusal(f"del {self._path}.{key}"))

    def __delattr__(self, attribute: str) -> None:
        del self[attribute]

    def copy_and_resolve_references(self, visit_map: Any = None) -> ConfigDict:
        """The values as a ConfigDict that can be changed."""
        del visit_map
        return ConfigDict(_thawed(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> ConfigDict:
        return self.copy_and_resolve_references()

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenConfig, (_thawed(self), self._path)


class _Item(dict[str, Any]):
    """A section in a list. ConfigDict keeps such sections as dicts."""

    def _refuse(self, *args: Any, **fields: Any) -> Any:
        raise AttributeError(_refusal(f"a change of {dict(self)}"))

    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = clear = setdefault = _refuse


def _frozen(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        return FrozenConfig(value, path)
    return _frozen_item(value) if isinstance(value, list | tuple) else value


def _frozen_item(value: Any) -> Any:
    """A list, or an item of a list, frozen."""
    if isinstance(value, dict):
        return _Item({name: _frozen_item(item) for name, item in value.items()})
    return tuple(map(_frozen_item, value)) if isinstance(value, list | tuple) else value


def _thawed(value: Any) -> Any:
    """A copy of the sections as dicts."""
    if isinstance(value, ConfigDict | _Item):
        return {name: _thawed(item) for name, item in value.items()}
    return tuple(map(_thawed, value)) if isinstance(value, tuple) else value


def _refusal(change: str) -> str:
    return (
        f"The config of an Experiment is fixed, because its objects are built from it; got {change}. To try another value, "
        "change a copy and build again: config = experiment.config.copy_and_resolve_references(), then the change, then "
        "Experiment(config)."
    )
