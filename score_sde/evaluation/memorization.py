"""Whether a model repeats its training data: how near samples lie to it, beside how near held-out images lie."""

import pathlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from score_sde import parallel, plots
from score_sde.evaluation.features import split_batches
from score_sde.experiment import Experiment
from score_sde.metrics import nearest
from score_sde.training.state import Params

MOST = 10_000  # samples that are compared
PICTURED = 8
SMALL = 64  # a batch of at most so many is drawn again as a whole
QUANTILE = 0.01

Features = Float[np.ndarray, "n d"]


def memorization(
    samples: Features, train: Float[np.ndarray, "m d"], held_out: Float[np.ndarray, "k d"], first_index: int = 0
) -> dict[str, Any]:
    """The share of samples nearer to training data than all but 1 % of held-out images, and the closest pairs.

    A model of the right distribution has 0.01, as far as held-out images are of the training distribution; more is
    memorization, or samples that are simpler than images: look at the pairs.
    """
    samples = samples[:MOST]
    distances, index = nearest(samples, train)
    of_held_out, _ = nearest(held_out, train)
    share = float((distances < np.quantile(of_held_out, QUANTILE)).mean())
    order = np.argsort(distances, kind="stable")[:PICTURED]
    closest = [
        {"sample": int(first_index + i), "training_image": int(index[i]), "distance": float(distances[i])}
        for i in order
    ]
    return {
        "value": share,
        "standard_error": float(np.sqrt((share + 1 / len(samples)) * (1 - share) / len(samples))),
        "expected": QUANTILE,
        "median_distance": float(np.median(distances)),
        "median_distance_held_out": float(np.median(of_held_out)),
        "closest": closest,
        "note": f"{len(samples)} samples; share nearer than the 1 % quantile of {len(held_out)} held-out images",
    }


def draw_closest(
    experiment: Experiment,
    params: Params,
    result: dict[str, Any],
    batch_size: int,
    first_index: int,
    path: pathlib.Path,
) -> None:
    """Writes the closest pairs: a row of samples, and below each the training image; every process calls it.

    The samples were thrown away, and are drawn once more: small batches by the program that drew them, and of larger ones
    only the images, by a program of their own.
    """
    key, width = experiment.run_key("sample"), batch_size if batch_size <= SMALL else 1
    size, params = parallel.round_up(width, experiment.mesh), experiment.place(params)
    drawn: dict[int, np.ndarray] = {}
    images, originals = [], []
    captions = [f"{pair['distance']:.4g}" for pair in result["closest"]]
    captions += [f"image {pair['training_image']}" for pair in result["closest"]]
    for pair in result["closest"]:
        part, row = divmod(pair["sample"] - first_index, width)
        if part not in drawn:
            drawn[part] = experiment.generator.batch(key, params, size, first_index + part * width).x
        images.append(drawn[part][row])
        originals.append(split_batches(experiment, "train", 1)[pair["training_image"]]["x"][0])
    if jax.process_index() == 0:
        title = "Samples and their distance from the training image below: the closest pairs"
        shown = np.stack(images + originals)[..., :3]
        plots.save_image(path, plots.image_grid(shown, columns=len(images), captions=captions, title=title))
