"""Features of samples and of data sets, computed part by part into a folder. An interrupted run continues."""

import hashlib
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Shaped, UInt8

import score_sde
from score_sde import parallel
from score_sde.config import plain
from score_sde.data import DataSpec, EvalBatches
from score_sde.data.prefetch import prefetch
from score_sde.evaluation.ledger import digest_of_json
from score_sde.experiment import Experiment
from score_sde.generation.parts import Arrays, NpzParts, Parts, PngParts
from score_sde.metrics.features import Extractor
from score_sde.runs.streams import compute_parts, describe, prepare
from score_sde.training.state import Params

DIGITS = 16  # the number of digits of a digest in the name of a folder
LEAST_PART = 256  # the least number of images in one file, because each file costs a write to the disk
HASHES = "image_hashes"  # 16 bytes for each image of a data set, stored with its features
SPREAD = 64  # the number of rows that identify a data set


class FeatureSet(NamedTuple):
    """The features of a set, in parts on the disk. Nothing is read before it is asked for."""

    stored: NpzParts
    manifest: dict[str, Any]

    @property
    def folder(self) -> pathlib.Path:
        return self.stored.folder

    @property
    def digest(self) -> str:
        """The digest of everything that determines the features."""
        return self.manifest["digest"]

    def read(self, name: str = "pool") -> Shaped[np.ndarray, "n ..."]:
        """One array of all parts, in order."""
        return self.stored.column(name)

    def parts(self, name: str = "pool") -> Iterator[Shaped[np.ndarray, "b ..."]]:
        """One array, part by part."""
        return (self.stored.read(first, [name])[name] for first in self.stored.firsts)

    def remove(self) -> None:
        """Deletes the features. Kept images stay, with the manifest that describes them."""
        self.stored.remove()
        if not any(entry.is_dir() for entry in self.folder.iterdir()):
            shutil.rmtree(self.folder)


class WithSamples(Parts):
    """Parts of features in one folder, and their images in another. A part is complete when both exist."""

    def __init__(self, features: NpzParts, samples: Parts):
        super().__init__(features.folder, features.firsts)
        self.features, self.samples = features, samples

    def prepare(self) -> None:
        self.features.prepare()
        self.samples.prepare()

    def is_done(self, first: int) -> bool:
        return self.features.is_done(first) and self.samples.is_done(first)

    def write(self, first: int, arrays: Arrays) -> None:
        rows = dict(arrays)
        self.samples.write(first, {"x": rows.pop("x")})
        self.features.write(first, rows)

    def finish(self) -> None:
        self.features.finish()
        self.samples.finish()

    def _part(self, first: int) -> pathlib.Path:
        return self.features._part(first)


def sample_features(
    experiment: Experiment,
    params: Params,
    extractor: Extractor,
    wanted: Sequence[str],
    folder: pathlib.Path,
    *,
    num_samples: int,
    batch_size: int,
    first_index: int = 0,
    keep_samples: str | None = None,
    quiet: bool = False,
    drawn: list[int] | None = None,
) -> FeatureSet:
    """Draws images first_index … first_index + num_samples − 1, rounds them to 8 bits, and keeps features and "nfe".

    Args:
      wanted: the outputs of the extractor. A set with other outputs is another set, and its images
        are drawn again.
      folder: the folder for a subfolder that is named after everything that determines the
        features.
      keep_samples: "png" or "npz" keeps the images too, in the subfolder samples_png or
        samples_npz.
      drawn: is called with the number of images of each new part.
    Raises: FloatingPointError for a sample that is not finite.
    """
    facts = {"num_samples": num_samples, "first_index": first_index, "batch_size": batch_size}
    facts |= _facts_of(extractor, wanted, experiment.spec) | {"num_classes": experiment.spec.num_classes}
    facts |= rounded_to(experiment.spec)
    manifest = describe(experiment, params, "sampling", shape=list(experiment.spec.shape), **facts)
    firsts, end = list(range(first_index, first_index + num_samples, batch_size)), first_index + num_samples
    features = NpzParts(folder / manifest["digest"][:DIGITS], firsts)
    parts = _with_samples(features, keep_samples, experiment.spec)
    prepare(parts, manifest)
    size, key = parallel.round_up(min(batch_size, num_samples), experiment.mesh), experiment.run_key("sample")
    params = experiment.place(params)

    def compute(remaining: list[int]) -> Iterator[tuple[int, Arrays, dict[str, Any]]]:
        for number in remaining:
            first = firsts[number]
            part = experiment.generator.batch(key, params, size, first, min(batch_size, end - first))
            levels = to_levels(part.x, experiment.spec, first)
            x = {} if keep_samples is None else {"x": levels}
            arrays = {**extractor(levels, wanted), "nfe": part.nfe, **x}
            if drawn is not None:
                drawn.append(len(part.nfe))
            yield number, arrays, {"evaluations": part.nfe.mean()}

    compute_parts(parts, compute, part_size=batch_size, name="evaluate", quiet=quiet)
    return FeatureSet(features, manifest)


def _with_samples(features: NpzParts, kind: str | None, spec: DataSpec) -> Parts:
    if kind is None:
        return features
    if kind not in ("png", "npz"):
        raise ValueError(f"--keep_samples needs png or npz, got {kind!r}.")
    if kind == "png" and not (is_image(spec.shape) and in_8_bits(spec)):
        raise ValueError(
            f"--keep_samples=png needs images [h, w, 1 or 3] of at most 256 levels, got shape {spec.shape} and "
            f"levels={spec.levels}; use npz."
        )
    made = (PngParts if kind == "png" else NpzParts)(features.folder / f"samples_{kind}", features.firsts)
    return WithSamples(features, made)


def source_features(
    experiment: Experiment,
    split: str,
    extractor: Extractor,
    wanted: Sequence[str],
    folder: pathlib.Path,
    *,
    batch_size: int,
    max_examples: int | None = None,
    quiet: bool = False,
) -> FeatureSet:
    """The features of every image of a split once, as published: no flips and no noise, cropped as the config says.

    The hash of each image is kept too.

    Args:
      max_examples: takes only the first so many.
    """
    batches = split_batches(experiment, split, batch_size)
    number = len(batches.source) if max_examples is None else min(max_examples, len(batches.source))
    manifest = source_manifest(experiment, split, extractor, wanted, number, batch_size)
    per_part, total = max(1, LEAST_PART // batch_size), -(-number // batch_size)
    parts = NpzParts(folder / manifest["digest"][:DIGITS], list(range(0, number, per_part * batch_size)))
    prepare(parts, manifest)

    def rows(batch: int) -> Float[np.ndarray, "b ..."]:
        read = batches[batch]
        return read["x"][read["is_real"] & (np.arange(batch_size) < number - batch * batch_size)]

    def compute(remaining: list[int]) -> Iterator[tuple[int, Arrays, dict[str, Any]]]:
        of_part = {part: range(part * per_part, min((part + 1) * per_part, total)) for part in remaining}
        numbers = [batch for part in remaining for batch in of_part[part]]
        ahead = prefetch(lambda k: rows(numbers[k]), 0, len(numbers))
        for part in remaining:
            found = []
            for batch, x in zip(of_part[part], ahead, strict=False):
                levels = to_levels(x, batches.spec, batch * batch_size)
                found.append({**extractor(levels, wanted), HASHES: image_hashes(levels)})
            yield part, {name: np.concatenate([one[name] for one in found]) for name in found[0]}, {}

    compute_parts(parts, compute, part_size=per_part * batch_size, name=f"features of {split}", quiet=quiet)
    return FeatureSet(parts, manifest)


def split_batches(experiment: Experiment, split: str, batch_size: int) -> EvalBatches:
    """All examples of a split, on every process.

    Raises: ValueError for another split than "train" or "eval".
    """
    if split not in ("train", "eval"):
        raise ValueError(f"--split needs train or eval, got {split!r}.")
    source = experiment.train_source if split == "train" else experiment.eval_source
    data = experiment.settings.data
    return EvalBatches(source=source, batch_size=batch_size, crop=data.augment.crop, on_error=data.on_error)


def source_manifest(
    experiment: Experiment, split: str, extractor: Extractor, wanted: Sequence[str], number: int, batch_size: int
) -> dict[str, Any]:
    """Everything that determines the features of a split, as JSON values with a digest."""
    batches, data = split_batches(experiment, split, 1), plain(experiment.config)["data"]
    spread = np.unique(np.linspace(0, len(batches.source) - 1, SPREAD).round().astype(np.int64))
    hashes = image_hashes(batches.gather(spread)["x"])
    content = {"source": data[split], "crop": data["augment"].get("crop"), "split": split, "count": number}
    content |= {"shape": list(batches.spec.shape), "examples": hashlib.sha256(hashes.tobytes()).hexdigest()}
    content |= {"batch_size": batch_size, "version": score_sde.__version__, "file": _file_of(data[split])}
    content |= _facts_of(extractor, wanted, batches.spec)
    content["format"] = 3  # with hashes; rows from all over the set
    return {**content, "digest": digest_of_json(content)}


def _file_of(source: dict[str, Any]) -> dict[str, int] | None:
    """The size and the time of change of the file that a source reads. None for no file.

    They reveal changes that a few rows do not.
    """
    path = pathlib.Path(str(source.get("path", ""))).expanduser()
    if not path.is_file():
        return None
    about = path.stat()
    return {"size": about.st_size, "mtime_ns": about.st_mtime_ns}


def image_hashes(levels: Shaped[np.ndarray, "b *shape"]) -> UInt8[np.ndarray, "b 16"]:
    """The BLAKE2b hash of the bytes of each image."""
    hashes = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in levels]
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(len(levels), 16)


def _facts_of(extractor: Extractor, wanted: Sequence[str], spec: DataSpec) -> dict[str, Any]:
    facts: dict[str, Any] = {"features": extractor.name, "extractor": extractor.digest, "outputs": sorted(wanted)}
    if in_8_bits(spec) != is_image(spec.shape):  # said only where the shape misleads: older folders stay valid
        facts["in_8_bits"] = in_8_bits(spec)
    # The same network rounds differently on another kind of device.
    return facts | {"platform": jax.default_backend()}


def rounded_to(spec: DataSpec) -> dict[str, int]:
    """{"levels": n} for a manifest, of images of n < 256 levels: their samples were once rounded to 256 levels."""
    return {"levels": spec.levels} if in_8_bits(spec) and spec.levels is not None and spec.levels < 256 else {}


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether examples look like grey or colour images."""
    return len(shape) == 3 and shape[-1] in (1, 3)


def in_8_bits(spec: DataSpec) -> bool:
    """Whether examples are arrays [h, w, c] of at most 256 levels, which 8 bits can hold.

    Continuous data would be clipped.
    """
    return len(spec.shape) == 3 and spec.levels is not None and spec.levels <= 256


def to_levels(x: Float[np.ndarray, "b *shape"], spec: DataSpec, first_index: int = 0) -> Shaped[np.ndarray, "b *shape"]:
    """Images of at most 256 levels as 0…255, rounded to the nearest level. Other data are not changed.

    Raises: FloatingPointError, with the index, for an example that is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))
    if len(bad):
        raise FloatingPointError(
            f"Image {first_index + bad[0]} is not finite ({len(bad)} in this batch), so no distance can be told; use another "
            "solver or grid, or look at the samples with score-sde sample --format=npz --dtype=float32."
        )
    return spec.image_u8(x) if in_8_bits(spec) else x
