"""Fine-tuning: the weights of one run as the start of another run."""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from score_sde.config import changes
from score_sde.training.description import Description
from score_sde.training.recipe import Recipe
from score_sde.training.saving.checkpoints import Checkpoints, misfits, shapes_of
from score_sde.training.saving.integrity import MANIFEST
from score_sde.training.state import RAW, Params, average_name, ema_name

READ_BY = ("sde", "parameterization", "network")  # the sections that determine the meaning of the weights
LISTED = 6  # the most differences in a message


class InitFrom(NamedTuple):
    """The source of weights: the folder of a run, a step (None: its newest checkpoint), and an average.

    Attributes:
      ema: the half-life of the average in thousands of images. "none" is the raw parameters, and
        None is the run's average with the shortest half-life.
    """

    workdir: str
    step: int | None = None
    ema: str | None = None

    def __str__(self) -> str:
        return self.workdir if self.step is None else f"{self.workdir}@{self.step}"

    def is_origin(self, origin: Mapping[str, Any]) -> bool:
        """Whether a run with this record of its origin can have begun with these weights."""
        same_folder = os.path.abspath(self.workdir) == os.path.abspath(origin["workdir"])
        same_average = self.ema in (None, origin["average"]) or _same_number(self.ema, origin["average"])
        return same_folder and self.step in (None, origin["step"]) and same_average


class Weights(NamedTuple):
    """Parameters, the run's record of their source, and sentences for the user."""

    params: Params
    origin: dict[str, Any]
    notes: list[str]


def parse_init_from(text: str | None, ema: str | None = None) -> InitFrom | None:
    """The source in a text WORKDIR or WORKDIR@STEP. A folder whose own name ends in @STEP is that folder.

    Raises: ValueError for an average without a run.
    """
    if not text:
        if ema is not None:
            raise ValueError(
                f"--ema says which average of --init_from to begin with, got {ema!r} without --init_from; drop it."
            )
        return None
    folder, at, step = text.rpartition("@")
    if at and step.isdigit() and folder and not pathlib.Path(text).is_dir():
        return InitFrom(folder, int(step), ema)
    return InitFrom(text, None, ema)


def read_weights(recipe: Recipe, description: Description, source: InitFrom) -> Weights:
    """The parameters of another run, for the network of this run. Names and shapes of the arrays must be equal.

    Raises: FileNotFoundError without such a checkpoint. ValueError where it is damaged, its arrays
      differ, or it has no such average.
    """
    with contextlib.closing(Checkpoints(pathlib.Path(source.workdir), read_only=True)) as checkpoints:
        step = checkpoints.existing(source.step)
        run = checkpoints.run(step)
        average = _average(run["config"], source.ema)
        part = ("params",) if average == RAW else ("ema", average)
        like = recipe.state_shapes().params
        _check_fit(checkpoints.shapes(step), part, shapes_of(like), source)
        params = checkpoints.restore_part(part, like, step)
        manifest = checkpoints.directory / str(step) / MANIFEST
        digest = hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None
    origin = {"workdir": source.workdir, "step": step, "average": average, "manifest_sha256": digest}
    which = "parameters" if average == RAW else f"average of half-life {average} thousand images"
    begins = f"The run begins with the {which} at step {step} of {source.workdir}."
    return Weights(params, origin, [begins, *_other_meanings(recipe, description, run)])


def _average(config: Mapping[str, Any], ema: str | None) -> str:
    """The name of an average of a run, or "none" for its raw parameters."""
    names = [ema_name(float(half_life)) for half_life in config["ema"]["half_lives_kimg"]]
    return average_name(names, RAW if not names else ema)


def _check_fit(
    saved: Mapping[str, tuple[int, ...]], part: tuple[str, ...], wanted: Mapping[str, tuple[int, ...]], source: InitFrom
) -> None:
    """Raises ValueError with the arrays in which the weights of `source` and the network differ."""
    prefix = "".join(f"{name}/" for name in part)
    there = {name.removeprefix(prefix): shape for name, shape in saved.items() if name.startswith(prefix)}
    differ = misfits(there, wanted)
    if differ:
        raise ValueError(
            f"The weights in {source} do not fit the network of this config. Of {len(there.keys() | wanted.keys())} arrays "
            f"{len(differ)} differ: {listed(differ)}. Use the sections network and objective of that run (its config.json), "
            "and data of the same shape and conditions."
        )


def _other_meanings(recipe: Recipe, description: Description, run: Mapping[str, Any]) -> list[str]:
    """The ways in which the same arrays have another meaning in this run: another model, or other classes."""
    found, notes = {}, []
    if description.is_like(run):
        there, here = description.complete(run["config"]), description.completed
        read_by = [name for name in READ_BY if name in here]  # without a config, they stand in the task
        found = changes({name: there[name] for name in read_by}, {name: here[name] for name in read_by})
        for field in ("network.remat", "network.attention"):  # they change nothing but rounding
            found.pop(field, None)
    if found:
        told = listed([f"{field}: {old!r} there, {new!r} here" for field, (old, new) in found.items()])
        notes.append(f"Its weights are read by another model than they were trained in ({told}).")
    names = ((run.get("position", {}).get("data") or {}).get("train") or {}).get("class_names")
    ours = recipe.spec.class_names
    if names is not None and ours is not None and names != list(ours):
        notes.append("Its classes have other names: class i begins with what was learned of that run's class i.")
    return notes


def listed(texts: Sequence[str]) -> str:
    """The first few, and the number of the others."""
    more = f" and {len(texts) - LISTED} more" if len(texts) > LISTED else ""
    return "; ".join(texts[:LISTED]) + more


def _same_number(one: str | None, other: str) -> bool:
    try:
        return float(one or "") == float(other)
    except ValueError:
        return False
