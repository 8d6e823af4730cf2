"""The evaluation of a model of a generated 2-D density against that density."""

import math
import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float64, Int

from score_sde import plots
from score_sde.data.densities import Density
from score_sde.runs.measures import held_out_bits_per_dim
from score_sde.trained import Trained
from score_sde.training.reporter import Reporter


class Fit(NamedTuple):
    """The fit of a model to a generated 2-D density.

    Attributes:
      numbers: the result of the function `numbers`.
      of_components: whether each density is the density of the component that the label names.
      samples: points [n, 2].
      extent: the range of a square grid.
      true: the density at the points of the grid.
      learned: the learned density at the points of the grid.
    """

    numbers: dict[str, float]
    of_components: bool
    samples: Float[np.ndarray, "n 2"]
    extent: tuple[float, float, float, float]
    true: Float[np.ndarray, " points"]
    learned: Float[np.ndarray, " points"]

    def draw(self, path: pathlib.Path) -> None:
        """The density, a histogram of the samples, and the learned density."""
        title = "The density, samples of the model, and its own density"
        plots.density_plot(
            self.samples,
            path,
            extent=self.extent,
            true_density=self.true,
            learned_density=self.learned,
            title=title,
        )


def fit_of(trained: Trained, num_samples: int = 10_000, resolution: int = 80, reporter: Reporter | None = None) -> Fit:
    """Compares a model of a generated 2-D density with the density.

    The numbers are in nats. The first two are the mean log-density of held-out points, learned and
    exact. Their difference estimates the KL divergence. Its standard error is given too. The last
    number is the exact mean log-density of samples. For samples from the density itself it would
    equal the exact mean log-density of held-out points. Where the model has labels, each density is
    the density of the component that the label names.

    Raises: ValueError for any other kind of data.
    """
    experiment, params, reporter = trained.experiment, trained.params, reporter or Reporter()
    density = getattr(experiment.eval_source, "density", None)
    if density is None or experiment.spec.shape != (2,):
        raise ValueError(
            f"density needs 2-D data of the source 'density', got {type(experiment.eval_source).__name__}."
        )
    held_out = experiment.eval_source.gather(np.arange(len(experiment.eval_source)))
    bits = held_out_bits_per_dim(experiment, params, quiet=reporter.quiet)
    learned = -bits.per_example * 2 * math.log(2)
    exact = _log_prob(density, held_out["x"], held_out.get("label"))
    with reporter.stage(f"drawing {num_samples:,} samples"):
        samples = experiment.generator(experiment.run_key("sample"), params, num_samples)
    of_samples = _log_prob(density, samples.x, samples.condition.get("label"))
    with reporter.stage("computing the densities of the picture"):
        extent, true, found = _densities(experiment, params, density, samples, resolution)
    return Fit(numbers(learned, exact, of_samples), "label" in held_out, samples.x, extent, true, found)


def numbers(
    learned: Float[np.ndarray, " n"], exact: Float[np.ndarray, " n"], of_samples: Float[np.ndarray, " m"]
) -> dict[str, float]:
    """The numbers of `fit_of`, from the log-densities of held-out points (learned and exact) and of samples (exact).

    Samples where the density is 0 are counted, and are not part of a mean.
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


def _densities(experiment, params, density, samples, resolution):
    """(extent, the density, the learned density) on a grid over the samples. With labels, the mixture of the drawn labels."""
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
    return extent, true, learned


def _learned(experiment, params, grid, condition) -> Float[np.ndarray, " n"]:
    """log q(x), or log q(x | condition), at the points of the grid."""
    denoise = experiment.denoiser.bind(params, condition)
    found = experiment.log_prob(experiment.run_key("likelihood"), denoise, jnp.asarray(grid, jnp.float32))
    return np.asarray(found.log_prob)
