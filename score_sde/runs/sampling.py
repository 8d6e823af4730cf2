"""Images from a checkpoint, into a file."""

import pathlib

import numpy as np

from score_sde import parallel, plots
from score_sde.experiment import Experiment
from score_sde.generation import Generated, join
from score_sde.runs.restoring import pick_params, restore
from score_sde.training.progress import Progress


def run_sampling(
    experiment: Experiment,
    workdir: pathlib.Path,
    num_samples: int,
    batch_size: int,
    *,
    first_index: int = 0,
    checkpoint: int | None = None,
    ema: str | None = None,
    output: pathlib.Path | None = None,
) -> Generated:
    """Draws images first_index … first_index + num_samples − 1; writes samples.npz and, of the first 100, samples.png."""
    state = restore(experiment, workdir, checkpoint)
    output = output or workdir / "samples" / f"step_{int(state.step):08d}"
    output.mkdir(parents=True, exist_ok=True)
    size, parts = parallel.round_up(batch_size, experiment.mesh), []
    key, params = experiment.run_key("sample"), pick_params(state, ema)
    with Progress(-(-num_samples // size), batch_size=size, name="sample") as progress:
        for part in experiment.generator.batches(key, params, num_samples, size, first_index):
            parts.append(part)
            progress.update(len(parts), {"evaluations": part.nfe.mean()})
    images = join(parts)
    arrays = {"x": images.x, "nfe": images.nfe, "index": np.arange(first_index, first_index + num_samples)}
    np.savez(output / "samples.npz", **(arrays | images.condition))  # type: ignore[arg-type]
    if len(experiment.spec.shape) > 1:
        plots.save_image(output / "samples.png", plots.image_grid(images.x[:100]))
    print(f"{num_samples} samples, {images.nfe.mean():.0f} evaluations each, in {output}")
    return images
