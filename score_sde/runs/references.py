"""Reference statistics: of every image of a data set once, from our own file or from those of other codes.

Another code's file holds a mean and a covariance of Inception features and says nothing of the images: EDM's and
pytorch-fid's (mu, sigma), ADM's (mu, sigma, mu_s, sigma_s).
"""

import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from score_sde.experiment import Experiment
from score_sde.metrics.features import FeatureStatistics
from score_sde.runs.extractors import Extractor
from score_sde.runs.features import DIGITS, FeatureSet, source_features
from score_sde.runs.ledger import digest_of_json
from score_sde.shards import NpzShards

INCEPTION_DIMENSION = 2048
BLOCK = 4096  # rows of which a covariance is taken at once
FORMAT = "score_sde reference 1"
_OUTPUTS = ("pool", "spatial")


class Reference(NamedTuple):
    """What samples are compared with.

    Fields: `statistics`, of "pool" and where known of "spatial", have count 0 where the file does not tell it;
    `description` says what they are of; `features` are the rows themselves, or None where they were not kept.
    """

    name: str
    digest: str
    statistics: dict[str, FeatureStatistics]
    description: dict[str, Any]
    features: Float[np.ndarray, "n d"] | None = None

    @property
    def num_examples(self) -> int | None:
        """How many images, or None where the file does not tell."""
        return self.statistics["pool"].count or None


def statistics_of(parts: Iterator[Float[np.ndarray, "_ _"]]) -> FeatureStatistics:
    """The statistics of all rows of all parts, with a few thousand rows in memory."""
    held: list[np.ndarray] = []
    total: FeatureStatistics | None = None

    def joined(total, rows):
        block = FeatureStatistics.of(rows)
        return block if total is None else total.merge(block)

    for part in parts:
        held.append(part)
        rows = sum(map(len, held))
        if rows >= 2 * BLOCK:  # so that what is left is never a single row
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
    """The reference of a split ("train", "eval"), and its features, which stay in `folder` part by part."""
    features = source_features(
        experiment, split, extractor, wanted, folder, batch_size=batch_size, max_examples=max_examples, quiet=quiet
    )
    own = ("batch_size", "version", "platform", "digest", "outputs")  # the same images and network, whatever these are
    description = {name: value for name, value in features.manifest.items() if name not in own}
    digest = digest_of_json(description)
    cached = NpzShards(features.folder / "statistics", [0])
    if not cached.is_done(0):
        cached.write(0, _as_arrays({n: statistics_of(features.parts(n)) for n in wanted if n in _OUTPUTS}))
    return Reference(split, digest, _from_arrays(cached.read(0)), description), features


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
    """Writes `output`, a .npz with the statistics; until then the features are in the folder OUTPUT.parts.

    Args: keep_features: the rows go into the file too; kid, prdc and memorization need them.
    Raises: ValueError for another name than *.npz, or fewer than two images.
    """
    if output.suffix != ".npz":
        raise ValueError(f"--output needs a name that ends in .npz, got {output}.")
    wanted = tuple(name for name in _OUTPUTS if name in extractor.outputs)
    parts = output.with_name(f"{output.name}.parts")
    options: dict[str, Any] = {"batch_size": batch_size, "max_examples": max_examples, "quiet": quiet}
    reference, features = data_reference(experiment, split, extractor, parts, wanted=wanted, **options)
    arrays: dict[str, Any] = _as_arrays(reference.statistics)
    description = reference.description | {"format": FORMAT, "digest": reference.digest}
    if keep_features:
        reference = reference._replace(features=features.read())
        arrays["features"] = reference.features
    NpzShards.save(output, arrays | {"description": np.array(json.dumps(description))})
    shutil.rmtree(parts)
    return reference._replace(name=str(output))


def load_reference(path: pathlib.Path) -> Reference:
    """Reads our file, or another code's.

    Raises: FileNotFoundError; ValueError for a file of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"No reference at {path}; make one with `python -m experiments.reference --config=… --output={path}`, or say "
            "--reference=train or eval."
        )
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files if name != "arr_0"}  # ADM's images
    except ValueError as error:
        raise ValueError(f"{path} is no .npz of plain arrays ({error}); nothing in a file is executed here.") from error
    if "description" in arrays:
        description = json.loads(str(arrays.pop("description")))
        features = arrays.pop("features", None)
        digest = description.pop("digest")
        return Reference(str(path), digest, _from_arrays(arrays), description, features)
    return _of_other_code(path, arrays)


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
            statistics[name] = FeatureStatistics(0, mu, (sigma + sigma.T) / 2)
    kind = "ADM" if "spatial" in statistics else "EDM or pytorch-fid"
    digest = digest_of_json({name: [s.mean.tolist(), s.cov[0].tolist()] for name, s in statistics.items()})
    return Reference(str(path), digest, statistics, {"format": f"mu, sigma ({kind})", "features": "inception"})


def check_reference(reference: Reference, extractor: Extractor, shape: tuple[int, ...]) -> list[str]:
    """What is not known about a reference, as warnings.

    Raises: ValueError where it was made with other features, or of images of another resolution or number of channels.
    """
    about, advice = reference.description, "Make the right one with experiments.reference, or name another --reference."
    if about["features"] != extractor.name:
        raise ValueError(
            f"The reference {reference.name} holds features {about['features']!r}, and the samples' are "
            f"{extractor.name!r}: their distance means nothing. {advice}"
        )
    if about.get("extractor", extractor.digest) != extractor.digest:
        raise ValueError(
            f"The reference {reference.name} was made with other weights or preprocessing of {extractor.name!r} (digest "
            f"{about['extractor'][:DIGITS]} there, {extractor.digest[:DIGITS]} here). {advice}"
        )
    if "shape" in about and tuple(about["shape"]) != tuple(shape):
        raise ValueError(
            f"The reference {reference.name} is of images {tuple(about['shape'])}, and the samples are {tuple(shape)}: "
            f"resized images have other features. {advice}"
        )
    dimension = len(reference.statistics["pool"].mean)
    if extractor.name == "inception" and dimension != INCEPTION_DIMENSION:
        raise ValueError(
            f"The reference {reference.name} has {dimension} features, and the InceptionV3 of FID has "
            f"{INCEPTION_DIMENSION}. {advice}"
        )
    if "shape" in about:
        return []
    return [f"{reference.name} ({about['format']}) does not tell its resolution, its images or how they were resized."]


def _as_arrays(statistics: dict[str, FeatureStatistics]) -> dict[str, np.ndarray]:
    return {
        f"{name}_{field}": np.asarray(getattr(s, field))
        for name, s in statistics.items()
        for field in ("count", "mean", "cov")
    }


def _from_arrays(arrays: dict[str, Float64[np.ndarray, "..."] | np.ndarray]) -> dict[str, FeatureStatistics]:
    return {
        name: FeatureStatistics(int(arrays[f"{name}_count"]), arrays[f"{name}_mean"], arrays[f"{name}_cov"])
        for name in _OUTPUTS
        if f"{name}_mean" in arrays
    }
