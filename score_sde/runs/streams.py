"""Large or expensive results: computed part by part, written at once, and continued after an interruption.

Process k of n writes every nth part. All processes compute together. manifest.json holds everything
that determines the result.
"""

import copy
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from score_sde import parallel
from score_sde.config import differences
from score_sde.experiment import Experiment
from score_sde.generation.parts import Arrays, Parts
from score_sde.internal.files import read_json, remove_temporaries, write_text
from score_sde.training.agreement import on_first_process
from score_sde.training.logs.progress import Progress
from score_sde.training.state import Params
from score_sde.training.stopping import kept

MANIFEST = "manifest.json"
# The sections that define a model. Once its parameters are given, it does not matter how it was trained.
MODEL_SECTIONS = ("seed", "sde", "parameterization", "network")


def describe(experiment: Experiment, params: Params, section: str, **facts: Any) -> dict[str, Any]:
    """Everything that determines a result, as JSON: the model, one section of the config, the parameters, and `facts`.

    Its "digest" is the SHA-256 of the rest.
    """
    config = copy.deepcopy(experiment.resolved)
    sections = (*MODEL_SECTIONS, section, *([] if experiment.codec.is_identity else ["codec"]))
    content = {**facts, "parameters": digest_of(params), "config": {n: config[n] for n in sections}}
    content["config"].get("sampling", {}).pop("num_preview", None)
    content["config"]["network"].pop("remat", None)
    return {**content, "digest": hashlib.sha256(_as_json(content).encode()).hexdigest()}


def digest_of(params: Params) -> str:
    """The SHA-256 over the names, shapes, types and bytes of all arrays. One array at a time is copied to the host."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        value = np.ascontiguousarray(parallel.to_host(leaf))
        digest.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def claim(folder: pathlib.Path, manifest: dict[str, Any], grows: str | None = None, free: Sequence[str] = ()) -> None:
    """Writes folder/manifest.json, or checks that the existing manifest is equal.

    Args:
      grows: a number in the manifest that may be larger than before. The larger number is then
        written.
      free: names in the manifest that may differ.
    Raises: ValueError with the fields that differ, or for a damaged manifest. FileExistsError for a
      folder with other files and no manifest.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise FileExistsError(f"{folder} holds files but no {MANIFEST}; name an empty or a new folder.")
        write_text(path, _as_json(manifest))
        return
    there = read_json(path, "name another folder, or delete that one")
    allowed = ("digest", *free, *([] if grows is None else [grows]))
    found = [text for text in differences(there, manifest) if text.partition(":")[0] not in allowed]
    if found:
        raise ValueError(
            f"{folder} was begun with something else: {'; '.join(found)}. Name another folder, or delete that one."
        )
    if grows is not None and there[grows] > manifest[grows]:
        raise ValueError(
            f"{folder} was begun with {grows}={there[grows]}, got {manifest[grows]}; take as many or more, or name another "
            "folder."
        )
    if grows is not None and there[grows] < manifest[grows]:
        write_text(path, _as_json(manifest))


def prepare(parts: Parts, manifest: dict[str, Any], grows: str | None = None, free: Sequence[str] = ()) -> None:
    """Claims the folder for `manifest`, and cleans up after an interrupted run.

    Every process calls it before `compute_parts`.
    """

    def first() -> None:
        claim(parts.folder, manifest, grows, free)
        remove_temporaries(parts.folder)
        parts.prepare()

    on_first_process(first)
    parts.prepare()  # each process needs the folder, in case the processes do not share a disk


def compute_parts(
    parts: Parts,
    compute: Callable[[list[int]], Iterator[tuple[int, Arrays, dict[str, Any]]]],
    *,
    part_size: int,
    name: str,
    quiet: bool = False,
) -> None:
    """Writes every missing part, shows the progress, and finishes.

    Args:
      compute: takes the numbers of the missing parts. It yields (number, its arrays, scalars to
        show) for each, in order, in every process.
    """
    done = _done(parts)
    remaining = [number for number, is_done in enumerate(done) if not is_done]
    quiet, there = quiet or jax.process_index() != 0, len(done) - len(remaining)

    def saved() -> str:
        return (
            f"{there} of {len(done)} parts ({name}) are saved in {parts.folder}. The same command goes on from there."
        )

    with kept(saved), Progress(len(done), there, part_size, quiet, name=name) as progress:
        for number, arrays, scalars in compute(remaining):
            if number % jax.process_count() == jax.process_index():
                parts.write(parts.firsts[number], arrays)
            there += 1
            progress.update(there, scalars)
    parallel.meet("all parts are written")
    on_first_process(parts.finish)


def _done(parts: Parts) -> list[bool]:
    """The parts that some process has. All processes get the same list."""
    return anywhere(np.array([parts.is_done(first) for first in parts.firsts])).tolist()


def anywhere(own: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """The items that are true in some process. All processes get the same result."""
    if jax.process_count() == 1:
        return own
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(own)).any(axis=0)


def _as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
