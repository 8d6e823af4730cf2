"""Near duplicates in a data set: images that were recompressed, brightened, captioned or shifted by a pixel.

Two images are compared by the correlation of their thumbnails or of their features. The mean of
each channel is subtracted from a thumbnail. So two blue skies are not duplicates, and a change of
brightness or contrast hides no duplicate.
"""

import functools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, Shaped

from score_sde import plots
from score_sde.evaluation.features import source_features, split_batches
from score_sde.experiment import Experiment
from score_sde.metrics import similar_pairs
from score_sde.metrics.features import Extractor
from score_sde.training.logs.stages import stage

SIZE = 16  # pixels; small enough to lose the effects of recompression, and large enough to show the content
MOST = 100_000  # the most images whose pairs are compared; the time grows with the square
KEPT, LISTED, PICTURED = 1000, 100, 12
# In CIFAR-10's training images, pairs above this value look like duplicates, and few pairs below it do.
LIKELY = 0.95


def thumbnails(images: Shaped[np.ndarray, "b h w c"]) -> Float32[np.ndarray, "b d"]:
    """Each image averaged down to at most 16×16, minus the mean of each channel."""
    rows, columns = (_averages(size) for size in images.shape[1:3])
    small = np.einsum("ih,bhwc,jw->bijc", rows, images.astype(np.float32), columns, optimize=True)
    return (small - small.mean(axis=(1, 2), keepdims=True)).reshape(len(images), -1)


@functools.cache
def _averages(size: int) -> Float32[np.ndarray, "t size"]:
    """The matrix that averages `size` pixels over min(size, SIZE) equal parts. A pixel on a boundary counts for both."""
    number = min(size, SIZE)
    edges = np.arange(number + 1) * size / number
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels[None] + 1) - np.maximum(edges[:-1, None], pixels[None])
    return (np.maximum(overlap, 0) * number / size).astype(np.float32)


def near_duplicates(rows: Float[np.ndarray, "n d"], index: Int[np.ndarray, " n"], of: str) -> dict[str, Any]:
    """The closest pairs of examples as JSON values, and the number of likely duplicates (at most 1,000 are counted).

    Args:
      index: the example of each row.
      of: what the rows are, in words.
    """
    with stage(f"comparing all pairs of {len(rows):,} {of}"):
        similarity, pairs = similar_pairs(rows - rows.mean(axis=1, keepdims=True), KEPT)
    return {
        "compared": len(rows),
        "of": of,
        "threshold": LIKELY,
        "likely": int((similarity >= LIKELY).sum()),
        "closest": [
            {"examples": index[pair].tolist(), "correlation": float(r)}
            for r, pair in zip(similarity[:LISTED], pairs[:LISTED], strict=True)
        ],
    }


def near_duplicates_by_features(
    experiment: Experiment,
    split: str,
    extractor: Extractor,
    folder: pathlib.Path,
    repeated: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
    max_examples: int | None = None,
    passed_over: Iterable[int] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """`near_duplicates` of an extractor's features, which are kept in `folder`.

    Of each group in `repeated` only the first example is used.

    Args:
      passed_over: the examples that could not be read and have no features.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "max_examples": max_examples, "quiet": quiet}
    rows = source_features(experiment, split, extractor, ("pool",), folder, **options).read()
    lacking = sorted(passed_over)
    examples = np.setdiff1d(np.arange(len(rows) + len(lacking)), lacking)  # that the rows are of
    kept = np.flatnonzero(~np.isin(examples, [i for group in repeated for i in group[1:]]))
    kept = kept[compared(len(kept))]
    return near_duplicates(rows[kept], examples[kept], f"features of {extractor.name}")


def compared(total: int) -> Int[np.ndarray, " n"]:
    """The examples whose pairs are compared: all, or 100,000 at random."""
    return np.sort(np.random.default_rng(0).permutation(total)[:MOST])


def draw_pairs(experiment: Experiment, split: str, found: Mapping[str, Any], path: pathlib.Path) -> pathlib.Path | None:
    """Writes a picture of the likely duplicates, at most twelve, one above the other.

    Without any it returns None, writes no picture, and deletes the picture of an earlier call.
    """
    pairs = [pair for pair in found["closest"][:PICTURED] if pair["correlation"] >= found["threshold"]]
    if not pairs or len(experiment.spec.shape) != 3:
        path.unlink(missing_ok=True)
        return None
    examples = split_batches(experiment, split, 1)
    images = [examples[pair["examples"][side]]["x"][0] for side in (0, 1) for pair in pairs]
    captions = [str(pair["examples"][0]) for pair in pairs]
    captions += [f"{pair['examples'][1]}: {pair['correlation']:.3f}" for pair in pairs]
    title = f"{len(pairs)} of {found['likely']} likely duplicates, with their correlation (by {found['of']})"
    shown = np.stack(images)[..., :3]
    plots.save_image(path, plots.image_grid(shown, columns=len(pairs), captions=captions, title=title))
    return path


def summary(found: Mapping[str, Any]) -> str:
    """One line of a report."""
    most = " or more" if found["likely"] == KEPT else ""
    text = (
        f"{found['likely']}{most} pairs correlate above {found['threshold']}, likely duplicates if these data are like "
    )
    text += f"CIFAR-10, on which the threshold was set (by {found['of']}"
    if not found["closest"]:
        return f"{text})"
    best = found["closest"][0]
    return f"{text}; the closest: {best['examples'][0]} and {best['examples'][1]}, {best['correlation']:.4f})"
