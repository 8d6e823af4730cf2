"""A model of a generated 2-D density held against it."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import plots
from score_sde.experiment import Experiment
from score_sde.files import write_json
from score_sde.runs.measures import held_out_bits_per_dim
from score_sde.runs.restoring import pick_params, restore


def run_density(
    experiment: Experiment,
    workdir: pathlib.Path,
    checkpoint: int | None = None,
    ema: str | None = None,
    num_samples: int = 10_000,
    resolution: int = 80,
) -> dict[str, float]:
    """Holds a model of a generated 2-D density against it; prints the numbers, writes density.json and density.png.

    The numbers: mean log-density of held-out points, learned and exact, in nats, with the standard error of their
    difference (its mean is an estimate of the KL divergence); and the exact mean log-density of samples, which for
    samples from the density itself would be that of the held-out points.

    Raises: ValueError for any other kind of data.
    """
    density = getattr(experiment.eval_source, "density", None)
    if density is None or experiment.spec.shape != (2,):
        raise ValueError(
            f"density needs 2-D data of the source 'density', got {type(experiment.eval_source).__name__}."
        )
    params = pick_params(restore(experiment, workdir, checkpoint), ema)
    points = experiment.eval_source.gather(np.arange(len(experiment.eval_source)))["x"]
    learned = -held_out_bits_per_dim(experiment, params).per_example * 2 * math.log(2)
    exact = np.asarray(density.log_prob(points), np.float64)
    samples = experiment.generator(experiment.run_key("sample"), params, num_samples).x
    of_samples = np.asarray(density.log_prob(samples), np.float64)
    means = {
        "held_out_learned": learned.mean(),
        "held_out_exact": exact.mean(),
        "kl": (exact - learned).mean(),
        "kl_standard_error": (exact - learned).std() / math.sqrt(len(exact)),
        "samples_exact": of_samples[np.isfinite(of_samples)].mean(),
        "samples_outside_support": 1 - np.isfinite(of_samples).mean(),
    }
    result = {name: float(value) for name, value in means.items()}
    if jax.process_index() == 0:
        print("\n".join(f"{name:24s} {value:8.4f}" for name, value in result.items()))
        write_json(workdir / "density.json", result)
    _draw_density(experiment, params, density, samples, resolution, workdir / "density.png")
    return result


def _draw_density(experiment, params, density, samples, resolution, path) -> None:
    """The density, a histogram of the samples, and the learned density."""
    low, high = np.percentile(samples, [0.1, 99.9], axis=0)
    centre, reach = ((low + high) / 2).tolist(), 0.6 * float((high - low).max())
    extent = (centre[0] - reach, centre[0] + reach, centre[1] - reach, centre[1] + reach)
    grid = plots.grid_points(extent, resolution)
    denoise = experiment.denoiser.bind(params)
    log_density = experiment.log_prob(experiment.run_key("likelihood"), denoise, jnp.asarray(grid, jnp.float32))
    learned = np.exp(np.asarray(log_density.log_prob))
    if jax.process_index() != 0:
        return
    plots.density_plot(
        samples, path, extent=extent, true_density=np.exp(density.log_prob(grid)), learned_density=learned
    )
