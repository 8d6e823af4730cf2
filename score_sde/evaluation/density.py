"""A model of a generated 2-D density held against it."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float64, Int

from score_sde import plots
from score_sde.data.densities import Density
from score_sde.experiment import Experiment
from score_sde.internal.files import write_json
from score_sde.runs.measures import held_out_bits_per_dim
from score_sde.runs.restoring import restore
from score_sde.training.logs.stages import stage
from score_sde.training.state import pick_params


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
    samples from the density itself would be that of the held-out points. Where the model is given labels, all densities are
    those of the component that the label names.

    Raises: ValueError for any other kind of data.
    """
    density = getattr(experiment.eval_source, "density", None)
    if density is None or experiment.spec.shape != (2,):
        raise ValueError(
            f"density needs 2-D data of the source 'density', got {type(experiment.eval_source).__name__}."
        )
    params = pick_params(restore(experiment, workdir, checkpoint), ema)
    held_out = experiment.eval_source.gather(np.arange(len(experiment.eval_source)))
    learned = -held_out_bits_per_dim(experiment, params).per_example * 2 * math.log(2)
    exact = _log_prob(density, held_out["x"], held_out.get("label"))
    with stage(f"drawing {num_samples:,} samples"):
        samples = experiment.generator(experiment.run_key("sample"), params, num_samples)
    of_samples = _log_prob(density, samples.x, samples.condition.get("label"))
    result = numbers(learned, exact, of_samples)
    if jax.process_index() == 0:
        print("\n".join(f"{name:24s} {value:8.4f}" for name, value in result.items()))
        if "label" in held_out:
            print("All log-densities are those of the component that the label names.")
        write_json(workdir / "density.json", result)
    with stage("computing the densities of the picture"):
        _draw_density(experiment, params, density, samples, resolution, workdir / "density.png")
    return result


def numbers(
    learned: Float[np.ndarray, " n"], exact: Float[np.ndarray, " n"], of_samples: Float[np.ndarray, " m"]
) -> dict[str, float]:
    """What `run_density` tells, from the learned and exact log-densities of held-out points and the exact ones of samples.

    Samples where the density is 0 are counted, and are in no mean.
    """
    difference, is_inside = exact - learned, np.isfinite(of_samples)
    means = {
        "held_out_learned": learned.mean(),
        "held_out_exact": exact.mean(),
        "kl": difference.mean(),
        "kl_standard_error": difference.std() / math.sqrt(len(difference)),
        "samples_exact": of_samples[is_inside].mean(),
        "samples_outside_support": 1 - is_inside.mean(),
    }
    return {name: float(value) for name, value in means.items()}


def _log_prob(
    density: Density, points: Float[np.ndarray, "n 2"], label: Int[np.ndarray, " n"] | None
) -> Float64[np.ndarray, " n"]:
    """log p(x), or log p_k(x) of the component k = label."""
    if label is None:
        return np.asarray(density.log_prob(points), np.float64)
    return np.asarray(density.component_log_prob(points), np.float64)[np.arange(len(points)), label]


def _draw_density(experiment, params, density, samples, resolution, path) -> None:
    """The density, a histogram of the samples, and the learned density; with labels their mixture, as often as drawn."""
    low, high = np.percentile(samples.x, [0.1, 99.9], axis=0)
    centre, reach = ((low + high) / 2).tolist(), 0.6 * float((high - low).max())
    extent = (centre[0] - reach, centre[0] + reach, centre[1] - reach, centre[1] + reach)
    grid = plots.grid_points(extent, resolution)
    if "label" not in samples.condition:
        true, learned = np.exp(density.log_prob(grid)), np.exp(_learned(experiment, params, grid, {}))
    else:
        labels, counts = np.unique(samples.condition["label"], return_counts=True)
        share, true = counts / counts.sum(), np.exp(density.component_log_prob(grid))[:, labels]
        conditions = [{"label": jnp.full(len(grid), label, jnp.int32)} for label in labels]
        true = true @ share
        learned = sum(w * np.exp(_learned(experiment, params, grid, c)) for w, c in zip(share, conditions, strict=True))
    if jax.process_index() == 0:
        title = "The density, samples of the model, and its own density"
        plots.density_plot(samples.x, path, extent=extent, true_density=true, learned_density=learned, title=title)


def _learned(experiment, params, grid, condition) -> Float[np.ndarray, " n"]:
    """log q(x), or log q(x | condition), at the points of the grid."""
    denoise = experiment.denoiser.bind(params, condition)
    found = experiment.log_prob(experiment.run_key("likelihood"), denoise, jnp.asarray(grid, jnp.float32))
    return np.asarray(found.log_prob)
