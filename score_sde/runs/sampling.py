"""Images from a checkpoint, written to a file, or part by part to a folder."""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from score_sde import parallel
from score_sde.data import DataSpec
from score_sde.generation.generator import Generated, join
from score_sde.generation.parts import Arrays, NpyParts, NpzParts, Parts, PngParts
from score_sde.runs.streams import anywhere, compute_parts, describe, prepare
from score_sde.trained import Trained
from score_sde.training.reporter import Reporter
from score_sde.training.stopping import kept

FORMATS = ("png", "npz", "npy")
DTYPES = ("uint8", "float32")


def draw_samples(
    trained: Trained, num_samples: int, batch_size: int, *, first_index: int = 0, reporter: Reporter | None = None
) -> Generated:
    """Draws images first_index … first_index + num_samples − 1 as the run's config says."""
    experiment, reporter = trained.experiment, reporter or Reporter()
    size, parts = parallel.round_up(min(batch_size, num_samples), experiment.mesh), []
    with (
        kept("samples are written at the end, and none is saved. With --format they are, batch by batch."),
        reporter.progress(-(-num_samples // size), batch_size=size, name="sample") as progress,
    ):
        key = experiment.run_key("sample")
        for part in experiment.generator.batches(key, trained.params, num_samples, size, first_index):
            parts.append(part)
            progress.update(len(parts), {"evaluations": part.nfe.mean()})
    return join(parts)


def stream_samples(
    trained: Trained,
    num_samples: int,
    batch_size: int,
    *,
    kind: str = "npz",
    dtype: str | None = None,
    first_index: int = 0,
    ema: str | None = None,
    output: pathlib.Path | None = None,
    quiet: bool = False,
) -> pathlib.Path:
    """Draws images first_index … first_index + num_samples − 1 into a folder, a batch at a time. Returns the folder.

    If the command is interrupted, call it again: it draws only the missing images. The same holds
    for a larger num_samples. The number of devices and processes and the batch size may differ
    between calls. The folder holds images, labels, evaluations and indices.

    Args:
      kind: "png", one file per image; "npz", one file per batch; "npy", one array.
      dtype: "uint8", rounded to the nearest level of the data, or "float32", x in the units of the model. None
        is "uint8" for images.
      ema: the requested average, which the manifest names. None is the average of `trained`.
      output: the folder. None is a folder in the workdir, named after the step and the kind.
    Raises: ValueError for a folder with other samples, or for data that are not images where images
      are needed. FloatingPointError for an image that is not finite, where it must be rounded.
    """
    experiment = trained.experiment
    dtype = _checked_dtype(kind, dtype, experiment.spec.shape)
    if min(num_samples, batch_size) < 1:
        raise ValueError(f"Sampling needs num_samples, batch_size >= 1, got {num_samples} and {batch_size}.")
    output = output or samples_folder(trained, f"_{kind}")
    facts = {"format": kind, "dtype": dtype, "shape": list(experiment.spec.shape), "first_index": first_index}
    facts |= {"num_samples": num_samples, "step": trained.step}
    facts["ema"] = ema or trained.average
    facts["num_classes"] = experiment.spec.num_classes
    if dtype == "uint8" and (experiment.spec.levels or 256) < 256:  # once they were rounded to 256 levels
        facts["levels"] = experiment.spec.levels
    parts = _open_parts(kind, output, facts)
    prepare(parts, describe(experiment, trained.params, "sampling", **facts), grows="num_samples", free=["batch_size"])
    counts = parts.divide(first_index, anywhere(parts.covered(first_index, num_samples)), batch_size)
    # The whole batch is drawn even for fewer images: in another program an image has other last bits.
    size = parallel.round_up(batch_size, experiment.mesh)
    key, params = experiment.run_key("sample"), trained.placed

    def draw(remaining: list[int]) -> Iterator[tuple[int, Arrays, dict[str, Any]]]:
        for number in remaining:
            first = parts.firsts[number]
            part = experiment.generator.batch(key, params, size, first, counts[first])
            yield number, _arrays(part, dtype, kind, experiment.spec), {"evaluations": part.nfe.mean()}

    compute_parts(parts, draw, part_size=batch_size, name="sample", quiet=quiet)
    return output


def samples_folder(trained: Trained, suffix: str = "") -> pathlib.Path:
    """The folder for samples of a run, if the user names none."""
    return trained.folder / "samples" / f"step_{trained.step:08d}{suffix}"


def _checked_dtype(kind: str, dtype: str | None, shape: tuple[int, ...]) -> str:
    """The type that is written.

    Raises: ValueError where the data, the format and the type do not fit each other.
    """
    if kind not in FORMATS:
        raise ValueError(f"--format needs one of {FORMATS}, got {kind!r}.")
    is_image = len(shape) == 3 and shape[-1] in (1, 3)
    dtype = dtype or ("uint8" if is_image else "float32")
    if dtype not in DTYPES:
        raise ValueError(f"--dtype needs one of {DTYPES}, got {dtype!r}.")
    if kind == "png" and (not is_image or dtype != "uint8"):
        raise ValueError(
            f"--format=png needs images [h, w, 1 or 3] as uint8, got shape {shape} as {dtype}; use --format=npz or npy, which "
            "hold any number of channels and float32."
        )
    return dtype


def _open_parts(kind: str, folder: pathlib.Path, facts: dict[str, Any]) -> Parts:
    """The folder, not yet divided into parts."""
    if kind == "npy":
        return NpyParts(folder, [], (facts["num_samples"], *facts["shape"]), facts["dtype"], facts["first_index"])
    return (PngParts if kind == "png" else NpzParts)(folder, [])


def _arrays(part: Generated, dtype: str, kind: str, spec: DataSpec) -> Arrays:
    """The arrays of a batch that are written."""
    x = part.x
    if dtype == "uint8":
        bad = [part.first_index + i for i, image in enumerate(x) if not np.isfinite(image).all()]
        if bad:
            raise FloatingPointError(
                f"Image {bad[0]} is not finite ({len(bad)} in this batch), and no grey level can show that; use another "
                "solver or grid, or look at the numbers with --format=npz --dtype=float32."
            )
        x = spec.image_u8(x)
    index = {"index": part.first_index + np.arange(len(x))} if kind == "npz" else {}
    return {"x": x, "nfe": part.nfe, **index, **part.condition}
