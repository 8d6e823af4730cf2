"""The picture of samples above their closest training images."""

import pathlib
from typing import Any

import jax
import numpy as np

from score_sde import parallel, plots
from score_sde.evaluation.features import split_batches
from score_sde.experiment import Experiment
from score_sde.training.state import Params

SMALL = 64  # the largest batch that is drawn again as a whole


def draw_closest(
    experiment: Experiment,
    params: Params,
    result: dict[str, Any],
    batch_size: int,
    first_index: int,
    path: pathlib.Path,
) -> None:
    """Writes the closest pairs: a row of samples with the training image below each sample.

    Every process calls it. The samples were not kept, so they are drawn again. A small batch is
    drawn as a whole by the program that drew it. Of a larger batch only the needed images are
    drawn, by another program.
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
