"""Metrics by name: from the catalogue, from outside of the package, and by the name of a number in a ledger."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from score_sde.config import closest, from_outside
from score_sde.metrics import METRICS, Inputs, Metric, Result
from score_sde.metrics.base import SPLIT_DIGESTS


def chosen_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """The metrics of these names, each once and under its own name in --metrics.

    A name is a name of the catalogue, the name of a number of such a metric, or "module:attribute".
    The attribute is a subclass of `Metric`, or a function that makes one.

    Raises: ValueError for an unknown name, for no name, or for two metrics whose numbers have the
      same name.
    """
    known = {alias: name for name, metric in _catalogue().items() for alias in (*metric.aliases, *metric.results)}
    own = list(dict.fromkeys(name if name in METRICS else known.get(name, name) for name in names))
    unknown = [name for name in own if name not in METRICS and not re.fullmatch(r"[\w.]+:[\w.]+", name)]
    if unknown or not own:
        raise ValueError(
            f"--metrics needs names among {sorted(METRICS)}, or module:attribute of your own, got {unknown or 'none'}."
            + (closest(unknown[0], [*METRICS, *known]) if unknown else "")
        )
    chosen = {name: METRICS[name]() if name in METRICS else _from_outside(name) for name in own}
    _check_results(chosen)
    return chosen


@functools.cache
def _catalogue() -> dict[str, Metric]:
    return {name: make() for name, make in METRICS.items()}


def _from_outside(name: str) -> Metric:
    """The metric of "module:attribute".

    Raises: ValueError for an object that is not a metric, or has a name that a ledger or a file
      cannot have.
    """
    make = from_outside(f"--metrics={name}", name, Metric)
    try:
        metric = make()
    except TypeError as error:
        raise ValueError(f"--metrics={name} needs a metric that can be made without arguments: {error}.") from error
    if not isinstance(metric, Metric):
        raise ValueError(f"--metrics={name} needs to make a score_sde.metrics.Metric, got {type(metric).__name__}.")
    wrong = [result for result in metric.results if not (isinstance(result, str) and re.fullmatch(r"[\w-]+", result))]
    if wrong or not metric.results:
        raise ValueError(
            f"--metrics={name} needs names of letters, digits, _ and - as `results` (by default its `name`), got "
            f"{wrong or 'none'}."
        )
    _check_needs(f"--metrics={name}", metric)
    return metric


def _check_needs(what: str, metric: Metric) -> None:
    """Raises ValueError where no evaluation can provide what a metric names, or where `better` is another word."""
    needs = metric.needs
    for field, known in (("statistics", ["pool", "spatial"]), ("splits", list(SPLIT_DIGESTS))):
        unknown = [given for given in getattr(needs, field) if given not in known]
        if unknown:
            raise ValueError(f"{what} needs Needs({field}=…) among {known}, got {unknown}.")
    if not needs.outputs and (needs.statistics or needs.rows or needs.splits):
        raise ValueError(
            f"{what} compares with features and has outputs=(), so that no samples are drawn, got {needs}; name 'pool' in "
            "Needs(outputs=…), or let it need the model alone."
        )
    if not needs.outputs and not needs.model:
        raise ValueError(f"{what} needs outputs of samples or model=True, got {needs}.")
    if metric.better not in ("lower", "higher", ""):
        raise ValueError(f"{what} needs better = 'lower', 'higher' or '', got {metric.better!r}.")


def _check_results(chosen: dict[str, Metric]) -> None:
    """Raises ValueError where two metrics have a number of the same name."""
    owners = {result: name for name, metric in _catalogue().items() for result in metric.results}
    for name, metric in chosen.items():
        for result in metric.results:
            if owners.setdefault(result, name) != name:
                raise ValueError(
                    f"--metrics={name} has a number {result!r}, as {owners[result]} has; give it another `name` or `results`."
                )


def computed(name: str, metric: Metric, inputs: Inputs) -> dict[str, Result]:
    """The numbers of a metric, with the digests of the splits that it used.

    Raises: ValueError for results that a ledger cannot hold.
    """
    found = metric.compute(inputs.only(metric.needs))
    if not isinstance(found, dict) or not found.keys() <= set(metric.results):
        given = sorted(found) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"The metric {name} needs to give a dict of {list(metric.results)}, got {given}.")
    digests = {SPLIT_DIGESTS[split]: inputs.split_reference(split).digest for split in metric.needs.splits}
    return {result: _checked(f"The metric {name}", values) | digests for result, values in found.items()}


def _checked(what: str, result: Any) -> Result:
    """The result.

    Raises: ValueError where its value is not a number, or where JSON cannot hold it.
    """
    value = result.get("value") if isinstance(result, dict) else None
    if not isinstance(value, float | int) or isinstance(value, bool):
        raise ValueError(f"{what} needs results as {{'value': a float, …}}, got {result!r}.")
    try:
        json.dumps(result)
    except TypeError as error:
        raise ValueError(
            f"{what} needs results that JSON can hold, such as float(x) and x.tolist(): {error}."
        ) from error
    return result


def told_outside(name: str, metric: Metric) -> Result:
    """The facts that a row holds about a metric outside of the package, so that it can be compared without its code.

    {} for the metrics of the package.
    """
    if name in METRICS:
        return {}
    told = {"title": metric.title, "unit": metric.unit, "better": metric.better}
    return {"metric": name, "compared": ["result.metric", *metric.compared], **told}


def metric_of(result: str) -> Metric | None:
    """The metric of the catalogue with this number, or None."""
    return next((metric for metric in _catalogue().values() if result in metric.results), None)


def label(name: str, result: Mapping[str, Any]) -> str:
    """The label of a number on an axis: its name, its unit, and which values are better."""
    unit, better = _told(name, result, "unit"), _told(name, result, "better")
    more = ", ".join(text for text in (unit, f"{better} is better" if better else "") if text)
    return f"{name} ({more})" if more else name


def title(name: str, result: Mapping[str, Any]) -> str:
    """The title of a plot of a number."""
    return _told(name, result, "title") or name


def _told(name: str, result: Mapping[str, Any], field: str) -> str:
    """What the catalogue says of a number, or else the row."""
    metric = metric_of(name)
    return getattr(metric, field) if metric else str(result.get(field, ""))
