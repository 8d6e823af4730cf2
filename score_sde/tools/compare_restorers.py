"""Measures the methods for inverse problems against exact posteriors: a Gaussian and a mixture behind linear operators."""

import csv
import itertools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.guidance import guide
from score_sde.guidance import operators as ops
from score_sde.plots.calibration import rank_histograms
from score_sde.sdes import VP
from score_sde.solvers import DDIM, sample
from score_sde.solvers.grids import LogSNRUniform
from score_sde.tools.compare_solvers import sliced_wasserstein
from score_sde.tools.restoration_tasks import Method, method_of
from score_sde.training.reporter import Reporter

SHAPE = (4, 4, 1)
METHODS = (
    *("pigdm(data_std=0.8)", "mmps(max_steps=8)", "tmpd", "ddnm", "diffpir", "jfps(data_std=0.8)", "dps(scale=0.3)"),
    *("lgd(scale=0.3, data_std=0.8)", "replacement", "repaint(length=5, repeats=4)", "ddrm", "ddnm_plus"),
    *("daps(step_size=1e-3, last_ratio=1.0)", "red_diff", "tds"),
)
# Functions, because an array here would start JAX when this module is imported.
OPERATORS: dict[str, Callable[[], ops.Linear]] = {
    "mask": lambda: ops.Mask(jnp.asarray(np.arange(16).reshape(SHAPE) % 2 == 0, jnp.float32)),
    "block average": lambda: ops.BlockAverage(2),
    "random projection": lambda: ops.RandomProjection(6),
}
Draws = Float[np.ndarray, "n d"]
PARTICLES = 16  # the number of particles of TDS
EXACT = "exact draws"


class MixturePosterior(NamedTuple):
    """p(x0 | y) = Σ_k w_k N(m_k, C_k), in float64."""

    weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k d"]
    covariances: Float[np.ndarray, "k d d"]

    def moments(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
        """(mean, covariance)."""
        mean = self.weights @ self.means
        apart = self.means - mean
        between = np.einsum("k,ki,kj->ij", self.weights, apart, apart)
        return mean, between + np.einsum("k,kij->ij", self.weights, self.covariances)

    def sample(self, rng: np.random.Generator, number: int) -> Float[np.ndarray, "n d"]:
        """x0 ~ p(x0 | y)."""
        which = rng.choice(len(self.weights), number, p=self.weights)
        values, vectors = np.linalg.eigh(self.covariances)
        roots = vectors * np.sqrt(np.maximum(values, 0))[:, None]
        z = rng.standard_normal((number, self.means.shape[1]))
        return self.means[which] + np.einsum("nij,nj->ni", roots[which], z)


def exact_posterior(
    prior: GaussianMixture, matrix: Float[np.ndarray, "m d"], noise_std: float, y: Float[np.ndarray, " m"]
) -> MixturePosterior:
    """The posterior. Each component has its own, and its weight is its prior weight times its p(y)."""
    log_weights, means, covariances = [], [], []
    flat = [np.asarray(part, np.float64).reshape(len(prior.weights), -1) for part in (prior.means, prior.stds)]
    for weight, mean, std in zip(np.asarray(prior.weights, np.float64), *flat, strict=True):
        spread = np.diag(std**2)
        of_y = matrix @ spread @ matrix.T + noise_std**2 * np.eye(len(matrix))
        gain, error = spread @ matrix.T @ np.linalg.inv(of_y), y - matrix @ mean
        means.append(mean + gain @ error)
        covariances.append(spread - gain @ matrix @ spread)
        log_weights.append(np.log(weight) - 0.5 * (error @ np.linalg.solve(of_y, error) + np.linalg.slogdet(of_y)[1]))
    relative = np.exp(np.asarray(log_weights) - np.max(log_weights))
    return MixturePosterior(relative / relative.sum(), np.stack(means), np.stack(covariances))


def mixture() -> GaussianMixture:
    """Three components of images 4 × 4, with a mean between −1 and 1 and standard deviations from 0.2 to 0.6."""
    rng = np.random.default_rng(0)
    means, stds = rng.uniform(-1, 1, (3, *SHAPE)), rng.uniform(0.2, 0.6, (3, *SHAPE))
    return GaussianMixture(jnp.asarray([0.5, 0.3, 0.2]), *(jnp.asarray(part, jnp.float32) for part in (means, stds)))


def gaussian() -> GaussianMixture:
    """The first component of `mixture`, three times, so that the programs that are compiled for `mixture` serve it too."""
    density = mixture()
    return GaussianMixture(
        density.weights, *(jnp.repeat(part[:1], 3, axis=0) for part in (density.means, density.stds))
    )


PRIORS = {"Gaussian": gaussian, "mixture": mixture}


def matrix_of(operator: ops.Linear) -> Float[np.ndarray, "m d"]:
    """The operator's matrix."""
    size = int(np.prod(SHAPE))
    return np.asarray(operator(jnp.eye(size).reshape(size, *SHAPE)), np.float64).reshape(size, -1).T


class Row(NamedTuple):
    """The errors of one method on one problem: data from `prior`, measured by `operator` with noise of `noise_std`.

    `mean` is ‖E x − E*‖/√tr C*, `covariance` is ‖C − C*‖/‖C*‖ (Frobenius), `distance` is the sliced Wasserstein distance to
    exact draws. `nfe` is the number of evaluations for each draw.
    """

    prior: str
    operator: str
    noise_std: float
    method: str
    nfe: int
    mean: float
    covariance: float
    distance: float


class Cell(NamedTuple):
    """One run of a method on a problem, or the exact draws of the problem."""

    prior: str
    operator: str
    noise_std: float
    method: str
    steps: int


def cells_of(
    methods: Sequence[str], operators: Sequence[str], noise_stds: Sequence[float], budgets: Sequence[int]
) -> list[Cell]:
    """All runs, problem by problem. The exact draws come first: a perfect method has their errors.

    DDNM, which is for measurements without noise, has its own problems with σ_y = 0.
    """
    cells = []
    noiseless = [text for text in methods if text == "ddnm"]
    levels = [(std, [text for text in methods if text not in noiseless]) for std in noise_stds]
    for operator in operators:
        for noise_std, names in [*levels, (0.0, noiseless)]:
            for density in PRIORS if names else ():
                runs = [(text, steps) for text in names for steps in budgets]
                cells += [Cell(density, operator, noise_std, *run) for run in [(EXACT, 0), *runs]]
    return cells


def compare(cells: Sequence[Cell], number: int) -> Iterable[Row]:
    """The errors of `number` draws of each run.

    Cells of one operator and method follow each other in one program, whatever the prior, the noise and the steps.
    """
    for (prior, name, noise_std), runs in itertools.groupby(cells, lambda cell: cell[:3]):
        density, operator = PRIORS[prior](), OPERATORS[name]()
        matrix = matrix_of(operator)
        is_seen, rng = np.any(matrix != 0, axis=1), np.random.default_rng(1)  # a mask has rows of zeros
        y = operator(density.sample(jax.random.key(7), 1))
        y = (y + noise_std * operator_noise(jax.random.key(8), operator, y))[0]
        seen = np.asarray(y, np.float64).ravel()[is_seen]
        exact = exact_posterior(density, matrix[is_seen], max(noise_std, 1e-4), seen)
        draws = exact.sample(rng, number)
        for cell in runs:
            x, nfe = exact.sample(rng, number), 0
            if cell.method != EXACT:
                method = method_of(cell.method, operator, noise_std, DDIM(), _grid(cell.steps))
                x, nfe = draw(jax.random.key(9), density, method, jnp.broadcast_to(y[None], (number, *y.shape)))
            yield _row(cell, nfe, x, exact, draws)


def _grid(steps: int) -> LogSNRUniform:
    return LogSNRUniform(steps, end=1e-3, to_zero=True)


def draw(
    key: Key[Array, ""], density: GaussianMixture, method: Method, y: Float[Array, "n *m"]
) -> tuple[Float[np.ndarray, "n d"], int]:
    """(one draw for each row of y, evaluations for each draw)."""
    denoise = guide(density.denoise(VP()), (method.rule,), {"y": y})
    shape = (len(y), PARTICLES, *SHAPE) if method.is_particles else (len(y), *SHAPE)
    samples = sample(key, denoise, method.solver, method.grid, shape)
    x = samples.x[:, 0] if method.is_particles else samples.x
    return np.asarray(x, np.float64).reshape(len(y), -1), int(samples.nfe[0])


def _row(cell: Cell, nfe: int, x: Draws, exact: MixturePosterior, draws: Draws) -> Row:
    mean, covariance = exact.moments()
    of_mean = np.linalg.norm(x.mean(axis=0) - mean) / np.sqrt(np.trace(covariance))
    of_covariance = np.linalg.norm(np.cov(x.T) - covariance) / np.linalg.norm(covariance)
    return Row(*cell[:4], nfe, of_mean, of_covariance, sliced_wasserstein(x, draws))


def ranks(
    key: Key[Array, ""], text: str, operator: ops.Linear, noise_std: float, steps: int, pairs: int, draws: int
) -> Int[np.ndarray, "pairs d"]:
    """The rank of each pixel of x0 among `draws` draws given its y, for x0 ~ p and y ~ p(y | x0).

    Ranks are uniform if the draws are right.

    Source: Talts et al., arXiv 1804.06788.
    """
    density, keys = mixture(), jax.random.split(key, 3)
    x0 = density.sample(keys[0], pairs)
    y = operator(x0)
    y = y + noise_std * operator_noise(keys[1], operator, y)
    method = method_of(text, operator, noise_std, DDIM(), _grid(steps))
    x, _ = draw(keys[2], density, method, jnp.repeat(y, draws, axis=0))
    below = x.reshape(pairs, draws, -1) < np.asarray(x0, np.float64).reshape(pairs, 1, -1)
    return below.sum(axis=1)


def operator_noise(key: Key[Array, ""], operator: ops.Linear, y: Float[Array, "n *m"]) -> Float[Array, "n *m"]:
    """n ~ N(0, I), and 0 where a mask measures nothing."""
    n = jax.random.normal(key, y.shape, y.dtype)
    return operator(n) if isinstance(operator, ops.Mask) else n


ERRORS = ("mean", "covariance", "sliced Wasserstein")


def as_table(rows: Sequence[Row]) -> str:
    """Markdown: a table for each prior and noise level, with the errors for all operators side by side."""
    lines: list[str] = []
    for prior, noise_std in dict.fromkeys((row.prior, row.noise_std) for row in rows):
        chosen = [row for row in rows if (row.prior, row.noise_std) == (prior, noise_std)]
        operators = [*dict.fromkeys(row.operator for row in chosen)]
        names = [f"{operator}: {error}" for operator in operators for error in ERRORS]
        lines += [f"### {prior} prior, σ_y = {noise_std:g}", "", _line("method", "evaluations", *names)]
        lines += ["|---" * (2 + len(names)) + "|"]
        for method, nfe in dict.fromkeys((row.method, row.nfe) for row in chosen):
            found = {row.operator: row[5:] for row in chosen if (row.method, row.nfe) == (method, nfe)}
            numbers = [f"{value:.3f}" for operator in operators for value in found[operator]]
            lines.append(_line(f"`{method}`", nfe or "—", *numbers))
        lines.append("")
    return "\n".join(lines)


def _line(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def run_restorer_comparison(
    folder: pathlib.Path,
    methods: Sequence[str] = METHODS,
    operators: Sequence[str] | None = None,
    noise_stds: Sequence[float] = (0.1, 0.5),
    budgets: Sequence[int] = (25, 100),
    number: int = 1024,
    pairs: int = 64,
    reporter: Reporter | None = None,
) -> list[Row]:
    """Writes errors.md, errors.csv and calibration.png into `folder`. Returns the rows.

    Args:
      number: the number of draws from each posterior.
      pairs: the number of examples whose ranks are taken, among number // pairs draws each. 0: no picture.
    Raises: ValueError, before any work, for an unknown operator or method, or more pairs than number / 2.
    """
    operators = [*OPERATORS] if operators is None else operators
    if unknown := [name for name in operators if name not in OPERATORS]:
        raise ValueError(f"compare_restorers needs operators among {[*OPERATORS]}, got {unknown[0]!r}.")
    if pairs > number // 2:
        raise ValueError(f"compare_restorers needs pairs <= number / 2, got {pairs=}, {number=}.")
    for text in methods:
        method_of(text, OPERATORS["mask"](), 0.0 if text == "ddnm" else 0.1, DDIM(), _grid(4))
    cells, rows = cells_of(methods, operators, noise_stds, budgets), []
    ranked = [text for text in methods if text != "ddnm"] if pairs else []
    with (reporter or Reporter()).progress(len(cells) + len(ranked), name="compare", examples="runs") as progress:
        for row in compare(cells, number):
            rows.append(row)
            progress.update(len(rows))
        found = {}
        for text in ranked:
            draws = number // pairs
            found[text.partition("(")[0]] = ranks(jax.random.key(3), text, OPERATORS["mask"](), 0.3, 50, pairs, draws)
            progress.update(len(rows) + len(found))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "errors.md").write_text(as_table(rows), encoding="utf-8")
    with (folder / "errors.csv").open("w", newline="", encoding="utf-8") as file:
        writer: Any = csv.writer(file)
        writer.writerows([Row._fields, *rows])
    if found:
        rank_histograms(found, number // pairs, folder / "calibration.png")
    return rows
