"""Reference statistics: of every image of a data set once, from our own file or from files of other codes.

A file of another code holds a mean and a covariance of Inception features, and no facts about the
images. EDM and pytorch-fid have (mu, sigma), and ADM has (mu, sigma, mu_s, sigma_s).
"""

import hashlib
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from score_sde import parallel
from score_sde.evaluation.features import HASHES, FeatureSet, source_features
from score_sde.evaluation.ledger import digest_of_json
from score_sde.experiment import Experiment
from score_sde.generation.parts import NpzParts
from score_sde.internal.files import parse_json, remove_temporaries_of
from score_sde.internal.guarded import Npz
from score_sde.metrics import FeatureStatistics, Reference
from score_sde.metrics.features import Extractor
from score_sde.training.logs.stages import stage

BLOCK = 4096  # the number of rows per block of a covariance
FORMAT = "score_sde reference 1"
_OUTPUTS = ("pool", "spatial")
_TOLD = {"digest": str, "features": str, "extractor": str, "shape": list}  # by the description of our own file
_ARRAYS = [f"{output}_{part}" for output in _OUTPUTS for part in ("count", "mean", "cov")]
_ARRAYS += ["features", "mu", "sigma", "mu_s", "sigma_s"]


def statistics_of(parts: Iterator[Float[np.ndarray, "_ _"]]) -> FeatureStatistics:
    """The statistics of all rows of all parts, with a few thousand rows in memory at a time."""
    held: list[np.ndarray] = []
    total: FeatureStatistics | None = None

    def joined(total, rows):
        block = FeatureStatistics.of(rows)
        return block if total is None else total.merge(block)

    for part in parts:
        held.append(part)
        rows = sum(map(len, held))
        if rows >= 2 * BLOCK:  # so that the remainder is never a single row
            block = np.concatenate(held)
            total, held = joined(total, block[:BLOCK]), [block[BLOCK:]]
    return joined(total, np.concatenate(held))


def data_reference(
    experiment: Experiment,
    split: str,
    extractor: Extractor,
    folder: pathlib.Path,
    *,
    wanted: tuple[str, ...] = ("pool",),
    batch_size: int = 64,
    max_examples: int | None = None,
    quiet: bool = False,
) -> tuple[Reference, FeatureSet]:
    """The reference of a split ("train", "eval"), and its features, which are kept in `folder` part by part.

    Its digest is computed from the images, in any order, and from the extractor. It does not depend
    on the path of the images.
    """
    features = source_features(
        experiment, split, extractor, wanted, folder, batch_size=batch_size, max_examples=max_examples, quiet=quiet
    )
    told = ("features", "extractor", "shape", "count", "split", "source", "crop")
    description = {name: features.manifest[name] for name in told} | {"images": digest_of_set(features.read(HASHES))}
    digest = digest_of_json({name: description[name] for name in ("features", "extractor", "shape", "images")})
    with stage(f"computing the statistics of {split}", quiet=quiet or None):
        statistics = _kept_statistics(features, wanted)
    return Reference(split, digest, statistics, description), features


def _kept_statistics(features: FeatureSet, wanted: tuple[str, ...]) -> dict[str, FeatureStatistics]:
    """The statistics of a set, from its folder if they exist.

    With fewer examples than features they are computed again. This is quick, and distances need the
    examples to be quick.
    """
    cached = NpzParts(features.folder / "statistics", [0])
    there = _from_arrays(cached.folder, cached.read(0)) if cached.is_done(0) else {}
    kept = {name: s for name, s in there.items() if s.count >= len(s.mean)}
    names = [name for name in wanted if name in _OUTPUTS]
    statistics = {name: kept.get(name) or statistics_of(features.parts(name)) for name in names}
    if jax.process_index() == 0 and not there:
        cached.write(0, _as_arrays(statistics))
    return statistics


def digest_of_set(hashes: UInt8[np.ndarray, "n 16"]) -> str:
    """The SHA-256 of a set of images, given by their hashes, in any order."""
    return hashlib.sha256(b"".join(sorted(row.tobytes() for row in hashes))).hexdigest()


def make_reference(
    experiment: Experiment,
    split: str,
    extractor: Extractor,
    output: pathlib.Path,
    *,
    batch_size: int = 64,
    max_examples: int | None = None,
    keep_features: bool = False,
    quiet: bool = False,
) -> Reference:
    """Writes `output`, a .npz with the statistics. Until then the features are in the folder OUTPUT.parts.

    All processes call it, and must see the same folder. The first process writes.

    Args:
      keep_features: whether the file also holds the rows, which kid, prdc and memorization need.
    Raises: ValueError for another name than *.npz, or fewer than two images.
    """
    if output.suffix != ".npz":
        raise ValueError(f"--output needs a name that ends in .npz, got {output}.")
    wanted = tuple(name for name in _OUTPUTS if name in extractor.outputs)
    parts = output.with_name(f"{output.name}.parts")
    if jax.process_index() == 0:
        remove_temporaries_of(output)
    options: dict[str, Any] = {"batch_size": batch_size, "max_examples": max_examples, "quiet": quiet}
    reference, features = data_reference(experiment, split, extractor, parts, wanted=wanted, **options)
    arrays: dict[str, Any] = _as_arrays(reference.statistics)
    description = reference.description | {"format": FORMAT, "digest": reference.digest}
    if keep_features:
        reference = reference._replace(features=features.read())
        arrays["features"] = reference.features
    if jax.process_index() == 0:
        NpzParts.save(output, arrays | {"description": np.array(json.dumps(description))})
    parallel.meet("the reference is written")  # and no process reads the parts any longer
    if jax.process_index() == 0:
        shutil.rmtree(parts)
    return reference._replace(name=str(output))


def load_reference(path: pathlib.Path) -> Reference:
    """Reads our file, or a file of another code.

    Raises: FileNotFoundError where there is no file. ValueError for a file of another kind, a file
      that is cut off, or unusable numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"No reference at {path}; make one with `score-sde reference --config=… --output={path}`, or say "
            "--reference=train or eval."
        )
    file = Npz(path, "copy or make it again: nothing in a file is executed here")
    arrays = file.read([name for name in file.names if name != "arr_0"])  # ADM's images
    wrong = [name for name in _ARRAYS if name in arrays and arrays[name].dtype.kind not in "iuf"]
    if wrong:
        raise ValueError(f"{path} needs numbers as {wrong[0]}, got {arrays[wrong[0]].dtype}; make it again.")
    description = _own_description(arrays)
    if description is None:
        return _of_other_code(path, arrays)
    lacks = [name for name in ("pool_count", "pool_mean", "pool_cov") if name not in arrays]
    lacks += [name for name, kind in _TOLD.items() if not isinstance(description.get(name), kind)]
    if lacks:
        raise ValueError(f"{path} is no whole reference, it lacks {lacks}; make it again with score-sde reference.")
    statistics, features = _from_arrays(path, arrays), arrays.get("features")
    rows = None if features is None else _rows(path, features, statistics["pool"])
    if rows is not None and len(rows) < rows.shape[1]:  # distances are quicker with the examples
        statistics["pool"] = FeatureStatistics.of(rows)
    return Reference(str(path), description.pop("digest"), statistics, description, rows)


def _own_description(arrays: dict[str, np.ndarray]) -> dict[str, Any] | None:
    """The description in our own files, or None for a file of another code."""
    try:
        description = parse_json(str(arrays["description"]), "The description", "it is not ours")
        ours = str(description["format"]).startswith(FORMAT.rpartition(" ")[0])
    except (KeyError, ValueError):
        return None
    return description if ours else None


def _statistics(path: pathlib.Path, output: str, count: int, mean: np.ndarray, cov: np.ndarray) -> FeatureStatistics:
    """The statistics of an output in a file.

    Raises: ValueError for arrays from which no distance can be computed.
    """
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise ValueError(
            f"{path} needs a mean [d] and a covariance [d, d] of its {output!r} features, got shapes {mean.shape} and "
            f"{cov.shape}; make it again."
        )
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise ValueError(f"{path} has numbers that are not finite, in the statistics of {output!r}; make it again.")
    return FeatureStatistics(count, mean, cov)


def _rows(path: pathlib.Path, rows: np.ndarray, pool: FeatureStatistics) -> Float[np.ndarray, "n d"]:
    """The features in a file.

    Raises: ValueError for features that do not belong to the statistics of the file.
    """
    if rows.shape != (pool.count, len(pool.mean)) or not np.isfinite(rows).all():
        raise ValueError(
            f"{path} needs finite features [{pool.count}, {len(pool.mean)}] beside its statistics, got shape {rows.shape}, "
            f"{int((~np.isfinite(rows)).sum())} of the numbers not finite; make it again."
        )
    return rows


def _of_other_code(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> Reference:
    if not {"mu", "sigma"} <= arrays.keys():
        raise ValueError(
            f"A reference needs our arrays or mu and sigma (EDM, pytorch-fid; with mu_s and sigma_s ADM), got "
            f"{sorted(arrays)} in {path}."
        )
    pairs = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
    statistics = {}
    for name, (mean, cov) in pairs.items():
        if mean in arrays and cov in arrays:
            mu, sigma = (np.asarray(arrays[key], np.float64) for key in (mean, cov))
            square = sigma.ndim == 2 and sigma.shape[0] == sigma.shape[1]
            statistics[name] = _statistics(path, name, 0, mu, (sigma + sigma.T) / 2 if square else sigma)
    kind = "ADM" if "spatial" in statistics else "EDM or pytorch-fid"
    digest = hashlib.sha256(b"".join(a.tobytes() for s in statistics.values() for a in (s.mean, s.cov)))
    description = {"format": f"mu, sigma ({kind})", "features": "inception"}
    return Reference(str(path), digest.hexdigest(), statistics, description)


def _as_arrays(statistics: dict[str, FeatureStatistics]) -> dict[str, np.ndarray]:
    return {
        f"{name}_{field}": np.asarray(getattr(s, field))
        for name, s in statistics.items()
        for field in ("count", "mean", "cov")
    }


def _from_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> dict[str, FeatureStatistics]:
    """The statistics in our own file.

    Raises: ValueError for statistics without a count or a covariance.
    """
    found = {}
    for name in _OUTPUTS:
        if f"{name}_mean" not in arrays:
            continue
        count, cov = arrays.get(f"{name}_count"), arrays.get(f"{name}_cov")
        if count is None or count.shape or not count >= 1 or cov is None:
            raise ValueError(f"{path} needs a count and a covariance of its {name!r} features; make it again.")
        found[name] = _statistics(path, name, int(count), arrays[f"{name}_mean"], cov)
    return found
