"""The start of a run: its newest checkpoint, the weights of another run, or random weights; and what has changed.

Every checkpoint holds the run's record. `history.json` in its folder is a copy for reading:
{"data": {"train": facts, "eval": facts}, "changes": [{"step": 20, "fields":
{"optimizer.learning_rate": [1e-3, 5e-4]}}], "init_from": {"workdir", "step", "average",
"manifest_sha256"} or None}.
"""

import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from score_sde.config import changes, closest, may_change, plain
from score_sde.data import Source
from score_sde.internal.files import read_json
from score_sde.runs.weights import InitFrom, listed, read_weights
from score_sde.training.description import CONFIG_FILE, Description
from score_sde.training.logs.stages import stage
from score_sde.training.recipe import Recipe
from score_sde.training.saving.checkpoints import Checkpoints, misfits, shapes_of
from score_sde.training.state import TrainState, with_averages

HISTORY_FILE = "history.json"
HALF_LIVES = "ema.half_lives_kimg"
ACCUMULATION = "optimizer.accumulation_steps"
# Fields of a source that say where and how its data are stored.
PLACES = ("path", "data_dir", "download", "cache_bytes")
FACTS = "facts"  # a change of `Source.facts()` has a field such as data.train.facts.digest
Changes = dict[str, tuple[Any, Any]]


class Start(NamedTuple):
    """The start of a training.

    Attributes:
      position: what the checkpoint says about how to continue, besides the state.
      record: the past of the run, which every checkpoint of the run will hold.
      notes: sentences for the user.
      is_copy: whether the weights come from another run and are not saved here yet.
    """

    state: TrainState
    position: dict[str, Any]
    record: dict[str, Any]
    notes: list[str]
    is_copy: bool = False


def begin(
    recipe: Recipe,
    description: Description,
    sources: Mapping[str, Source],
    checkpoints: Checkpoints,
    allow_change: Sequence[str] = (),
    init_from: InitFrom | None = None,
) -> Start:
    """The state of the newest checkpoint, or the state at step 0 with the weights of `init_from` or random weights.

    Args:
      sources: "train", and "eval" if training uses held-out examples.
      allow_change: fields of the config, or sections, that may differ from the checkpoint's. "data"
        also means the data themselves.
    Raises: ValueError where something else differs, or where `init_from` does not fit or is not the
      start of the existing run.
    """
    here = description.completed
    _check_fields(allow_change, here)
    with stage("taking the digest of the data"):
        facts = {split: plain(source.facts()) for split, source in sources.items()}
    if checkpoints.latest() is None:
        return first(recipe, description, facts, init_from)
    run = checkpoints.run()
    position = run.get("position", {})
    _check_form(run, description, checkpoints)
    _check_origin(position.get("init_from"), init_from, checkpoints)
    there, known = description.complete(run["config"]), position.get("data") or {}
    found = dict(sorted((changes(there, here) | _changes_of_facts(known, facts)).items()))
    moved = _moved(known, facts, found)
    _check_allowed(found, moved, allow_change, checkpoints, description)
    _check_structure(found, recipe, checkpoints)
    with stage("reading the newest checkpoint"):
        state = checkpoints.restore(_state_of_run(recipe, checkpoints, found))
    state = _with_new_averages(state, recipe)
    step, fields = int(state.step), {field: list(values) for field, values in found.items()}
    past = position.get("changes", []) + ([{"step": step, "fields": fields}] if found else [])
    record = {"data": known | facts, "changes": past, "init_from": position.get("init_from")}
    return Start(state, position, record, _notes(step, found, moved))


def first(recipe: Recipe, description: Description, facts: dict[str, Any], init_from: InitFrom | None) -> Start:
    """The state at step 0, with the weights of `init_from` or random weights. `facts` of the data are recorded."""
    record: dict[str, Any] = {"data": facts, "changes": [], "init_from": None}
    if init_from is None:
        with stage("compiling and drawing the first parameters"):
            return Start(recipe.init_state(), {}, record, [])
    with stage("reading the weights of another run"):
        weights = read_weights(recipe, description, init_from)
        state = recipe.state_from(weights.params)
    return Start(state, {}, record | {"init_from": weights.origin}, weights.notes, is_copy=True)


def read_history(workdir: pathlib.Path) -> dict[str, Any]:
    """The record of the run in `workdir`, or {} for a run of an earlier version."""
    path = workdir / HISTORY_FILE
    return read_json(path, "delete it; the next start of the training writes it again") if path.exists() else {}


def _changes_of_facts(known: Mapping[str, Any], facts: Mapping[str, Any]) -> Changes:
    """The differences of data that both sides know, by the names data.SPLIT.facts.NAME."""
    both = [split for split in ("train", "eval") if known.get(split) and facts.get(split)]
    there, here = ({f"data.{split}.{FACTS}": side[split] for split in both} for side in (known, facts))
    return changes(there, here)


def _moved(known: Mapping[str, Any], facts: Mapping[str, Any], found: Changes) -> Changes:
    """The changes that only say that the same data have another path, or that training no longer uses them."""
    moved: Changes = {}
    for split in ("train", "eval"):
        there, here = known.get(split), facts.get(split)
        if split not in facts or (there is not None and there == here and there.get("digest") is not None):
            moved |= {field: found[field] for name in PLACES if (field := f"data.{split}.{name}") in found}
    return moved


def _check_fields(allow_change: Sequence[str], config: Mapping[str, Any]) -> None:
    """Raises ValueError for a name in `allow_change` that is not a field or section of the config."""
    known = _paths(config)
    for name in allow_change:
        if name not in known:
            raise ValueError(
                f"--allow_change needs fields or sections of the config, as optimizer.learning_rate or data, got {name!r}."
                f"{closest(name, known)}"
            )


def _paths(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name, value in config.items():
        found += [f"{prefix}{name}", *(_paths(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [])]
    return found


def _check_allowed(
    found: Changes, moved: Changes, allow_change: Sequence[str], checkpoints: Checkpoints, description: Description
) -> None:
    """Raises ValueError with the changes that are not allowed, and the flag that allows them."""

    def is_allowed(field: str) -> bool:
        return any(field == name or field.startswith(f"{name}.") for name in allow_change)

    refused = {f: v for f, v in found.items() if not (may_change(f) or f in moved or is_allowed(f))}
    if not refused:
        return
    told = "; ".join(_told(field, *values) for field, values in refused.items())
    of_data = [field for field in refused if f".{FACTS}." in field]
    kinds = [*(["another config"] if len(of_data) < len(refused) else []), *(["other data"] if of_data else [])]
    raise ValueError(
        f"The checkpoint in {checkpoints.directory} was trained with {' and '.join(kinds)}: {told}. Use the settings "
        f"that the run began with (its {description.file}), or another --workdir. To continue with the change add "
        f"{description.allowing(_sections_or_fields(refused))}, which is recorded in {HISTORY_FILE}."
    )


def _sections_or_fields(fields: Collection[str]) -> list[str]:
    """The fields. Several fields of a section, and fields of data, are replaced by the section."""
    sections = [field.split(".")[0] for field in fields]
    several = {name for name in sections if name == "data" or sections.count(name) > 2}
    return list(dict.fromkeys(name if name in several else field for name, field in zip(sections, fields, strict=True)))


def _state_of_run(recipe: Recipe, checkpoints: Checkpoints, found: Changes) -> TrainState:
    """The shapes, types and shardings of the state in the checkpoint, with the averages of the run."""
    like = recipe.state_shapes()
    return with_averages(like, checkpoints.averages()) if HALF_LIVES in found else like


def _with_new_averages(state: TrainState, recipe: Recipe) -> TrainState:
    """The state with the averages of the config. Averages of the run continue, and new averages start at the parameters."""
    wanted = list(recipe.state_shapes().ema)
    if set(wanted) == set(state.ema):
        return state
    # Copies: the step donates the state, and no buffer can be donated twice.
    new = {name: jax.tree.map(jnp.copy, state.params) for name in wanted if name not in state.ema}
    return state._replace(ema={name: state.ema.get(name, new.get(name)) for name in wanted})


def _check_structure(found: Changes, recipe: Recipe, checkpoints: Checkpoints) -> None:
    """Raises ValueError where an allowed change gives a state that does not fit the checkpoint."""
    lasting = [field for field in found if not may_change(field) and field != HALF_LIVES]
    shapes = shapes_of(_state_of_run(recipe, checkpoints, found)._asdict())
    differ = misfits(checkpoints.shapes(), shapes) if lasting else []
    if differ:
        raise ValueError(
            f"A run cannot go on with {', '.join(lasting)} changed: its arrays would differ ({listed(differ)}). "
            f"--init_from={checkpoints.directory.parent} with another --workdir starts a new run from its weights, as far as "
            "the parameters are the same."
        )


def _check_form(run: Mapping[str, Any], description: Description, checkpoints: Checkpoints) -> None:
    """Raises ValueError where a run with a config is continued without a config, or the other way round."""
    if not description.is_like(run):
        with_config = description.file == CONFIG_FILE
        began, asked = ("without a config", "with one") if with_config else ("with a config", "without one")
        raise ValueError(
            f"The run in {checkpoints.directory.parent} was trained {began}, and cannot go on {asked}. Go on as it began, or "
            "use another folder: a new run can begin with its weights (init_from)."
        )


def _check_origin(origin: Mapping[str, Any] | None, init_from: InitFrom | None, checkpoints: Checkpoints) -> None:
    """Raises ValueError where an existing run did not begin with the requested weights."""
    if init_from is None or (origin is not None and init_from.is_origin(origin)):
        return
    began = "random weights" if origin is None else f"the weights of step {origin['step']} of {origin['workdir']}"
    raise ValueError(
        f"--init_from starts a new run, and the one in {checkpoints.directory.parent} began with {began}, not with the "
        f"weights of {init_from}. Use another --workdir; or drop --init_from to go on with the run."
    )


def _told(field: str, there: Any, here: Any) -> str:
    """A change in words. For class names, the names that were added or removed."""
    if field.endswith(f".{FACTS}.class_names") and isinstance(there, list) and isinstance(here, list):
        gone, new = [n for n in there if n not in here], [n for n in here if n not in there]
        texts = [
            f"{which} {listed(list(map(repr, names)))}" for which, names in (("without", gone), ("with", new)) if names
        ]
        return f"{field}: {' and '.join(texts) or 'in another order'} here"
    return f"{field}: {there!r} there, {here!r} here"


def _notes(step: int, found: Changes, moved: Changes) -> list[str]:
    """Sentences about allowed changes, for the user."""
    notes = [f"{field} is {here!r} now: the same data, elsewhere." for field, (_, here) in moved.items()]
    if ACCUMULATION in found:
        there, here = found[ACCUMULATION]
        notes.append(
            f"{ACCUMULATION} was {there} and is {here} from step {step} on: the updates are the same up to the order of sums, "
            "but dropout draws other numbers."
        )
    lasting = {field: values for field, values in found.items() if not (may_change(field) or field in moved)}
    if HALF_LIVES in lasting:
        new = [h for h in lasting[HALF_LIVES][1] if h not in lasting[HALF_LIVES][0]]
        notes += [
            f"The average with the half-life {half_life:g} starts at the parameters of step {step}."
            for half_life in new
        ]
    if lasting:
        told = "; ".join(_told(field, *values) for field, values in lasting.items())
        notes.append(f"From step {step} on, as --allow_change allows, {told}.")
    return notes
