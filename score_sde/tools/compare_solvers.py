"""Compares solvers: the error at each number of evaluations, on an exact mixture or on a trained model."""

import csv
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.config import build
from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.metrics import FeatureStatistics, oriented_gradients
from score_sde.plots.comparison import error_by_evaluations, solver_strips
from score_sde.sdes import SDE, SDES
from score_sde.solvers import Heun, ProbabilityFlow, Solver, sample
from score_sde.solvers.grids import GRIDS, EDMRho, Grid, Uniform
from score_sde.solvers.loop import start_std
from score_sde.tools.solver_specs import solver_of
from score_sde.trained import Trained
from score_sde.training.logs.stages import stage

Points = Float[np.ndarray, "n *shape"]


class Problem(NamedTuple):
    """The problem on which solvers are compared. All start from `x_start` at `start`, and end at `end`.

    `reference` is the end of the probability flow from x_start. `distance` compares samples with
    the data.
    """

    name: str
    sde: SDE
    denoise: Denoise
    x_start: Float[Array, "b *shape"]
    start: float
    end: float
    reference: Points
    distance: Callable[[Points], float]
    distance_name: str
    floor: float | None


class Row(NamedTuple):
    """One run: its budget, the steps that fit, their evaluations, the errors and the seconds of a second run.

    `error` is the root mean square over an example of its distance to the reference, averaged over
    examples. So a few examples that end at another mode do not dominate it.
    """

    solver: str
    grid: str
    budget: int
    steps: int
    nfe: float
    stochastic: bool
    error: float
    distance: float
    seconds: float


def ring(number: int = 8) -> GaussianMixture:
    """Eight narrow Gaussians of unequal weights on a circle. The paths of the flow are curved, and the score is nonlinear."""
    angles = 2 * np.pi * np.arange(number) / number
    weights = np.arange(1, number + 1) / np.sum(np.arange(1, number + 1))
    means, stds = np.stack([np.cos(angles), np.sin(angles)], axis=1), np.full((number, 2), 0.07)
    return GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in (weights, means, stds)))


def mixture_problem(sde_name: str = "vp", number: int = 4096, end: float = 1e-3) -> Problem:
    """The ring under the SDE of this name, from the prior.

    The reference is an adaptive solve at a tolerance of 1e-6. The distance is the sliced
    Wasserstein distance to four times as many exact samples at `end`. Its floor is the distance of
    `number` exact samples.
    """
    sde = build("sde", SDES, {"name": sde_name})
    mixture, start = ring(), _start(sde)
    end = end * float(sde.t_max)
    denoise, key = mixture.denoise(sde), jax.random.key(0)
    x_start = start_std(sde, jnp.float32(start)) * sde.noise(key, (number, 2))
    solver = ProbabilityFlow(1e-6, 1e-6)
    with stage("the reference: the adaptive probability flow"):
        grid = Uniform(1, start, end)
        reference = np.asarray(sample(key, denoise, solver, grid, x_start.shape, x_start=x_start).x)
    alpha, sigma = (float(v) for v in sde.marginal(jnp.asarray(end)))

    def exact(seed, number=number):
        keys = jax.random.split(jax.random.key(seed))
        x0 = mixture.sample(keys[0], number)
        return np.asarray(alpha * x0 + sigma * sde.noise(keys[1], x0.shape))

    truth = exact(1, 4 * number)
    distance = functools.partial(sliced_wasserstein, truth)
    floor = float(np.mean([distance(exact(seed)) for seed in range(2, 10)]))
    name, unit = f"a mixture of eight Gaussians, {type(sde).__name__}", "sliced Wasserstein distance"
    return Problem(name, sde, denoise, x_start, start, end, reference, distance, unit, floor)


def run_problem(trained: Trained, number: int = 64, end: float | None = None, reference_steps: int = 200) -> Problem:
    """A trained model, with the conditions of its first images, from its prior.

    The reference is Heun's method with `reference_steps` steps. For images, the distance is the
    Fréchet distance of oriented gradients to held-out images. For other data it is the sliced
    Wasserstein distance.
    """
    experiment = trained.experiment
    sde, shape, told = experiment.sde, experiment.latent_spec.shape, experiment.sampling_condition
    denoise = experiment.generator.denoise(trained.params, told(0, number), told.observation(0, number))
    start = _start(sde)
    end = float(getattr(experiment.grid, "end", 1e-3 * sde.t_max)) if end is None else end
    key = experiment.run_key("sample")
    x_start = start_std(sde, jnp.float32(start)) * sde.noise(key, (number, *shape))
    grid = EDMRho(reference_steps, start, end, to_zero=False)
    with stage(f"the reference: heun, {reference_steps} steps"):
        reference = np.asarray(sample(key, denoise, Heun(), grid, x_start.shape, x_start=x_start).x)
    source = experiment.eval_source
    data = np.asarray(next(iter(experiment.eval_batches(min(len(source), 2048), encoded=True)))["x"])
    if len(shape) == 3:
        statistics = FeatureStatistics.of(oriented_gradients(data))

        def distance(x):
            return statistics.frechet_distance(FeatureStatistics.of(oriented_gradients(x)))

        unit = "Fréchet distance of oriented gradients"
    else:
        distance, unit = (
            functools.partial(sliced_wasserstein, data.reshape(len(data), -1)),
            "sliced Wasserstein distance",
        )
    return Problem(str(trained.folder), sde, denoise, x_start, start, end, reference, distance, unit, None)


def sliced_wasserstein(
    truth: Float[np.ndarray, "m *shape"], x: Float[np.ndarray, "n *shape"], projections: int = 64
) -> float:
    """The mean over directions of W₁ between the projected sets, by 1,000 quantiles.

    With W₁, a fraction p of the points in a wrong mode counts as p. With W₂ it would count as √p,
    and the error of a finite sample would hide the solver's error.

    Source: Rabin et al., 2011; Bonneel et al., JMIV 2015.
    """
    truth, x = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (truth, x))
    directions = np.random.default_rng(0).standard_normal((truth.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    at = (np.arange(1000) + 0.5) / 1000
    ours, theirs = (np.quantile(v @ directions, at, axis=0) for v in (x, truth))
    return float(np.mean(np.abs(ours - theirs)))


def compare(
    problem: Problem,
    solvers: list[str],
    budgets: list[int],
    grids: list[str],
    show: Callable[[str], None] = lambda line: None,
) -> tuple[list[Row], dict[tuple[str, str, int], Points]]:
    """Runs every solver on every grid with every budget. Returns the rows, and the samples of each row.

    One program runs all budgets and grids of a solver. A solver that needs more than the budget for
    one step, as an adaptive solver does, runs with one step.
    """
    rows, samples = [], {}
    for text in solvers:
        solver = solver_of(text)
        for kind in grids:
            for row, x in _runs(problem, text, solver, kind, budgets):
                rows.append(row)
                samples[text, kind, row.budget] = x
                show(f"{text:40s} {kind:16s} {row.nfe:6.1f} evaluations  {row.error:.3e}  {row.distance:.4f}")
    return rows, samples


def _runs(problem: Problem, text: str, solver: Solver, kind: str, budgets: list[int]) -> Iterator[tuple[Row, Points]]:
    def solve(steps, seed=0):
        grid = _grid(problem, kind, steps)
        x, shape = problem.x_start, problem.x_start.shape
        with stage(f"{text} on {kind}, {steps} steps"):
            result = sample(jax.random.key(seed), problem.denoise, solver, grid, shape, x_start=x)
            jax.block_until_ready(result.x)
        return np.asarray(result.x), float(np.mean(result.nfe))

    solve = functools.lru_cache(maxsize=None)(solve)
    for budget in budgets:
        steps = budget
        while steps > 1 and solve(steps)[1] > budget:
            steps = max(1, min(steps - 1, int(steps * budget / solve(steps)[1])))
        x, nfe = solve(steps)
        began = time.perf_counter()
        again, _ = solve(steps, 1)
        seconds = time.perf_counter() - began
        stochastic = bool(np.any(again != x))
        apart = (x - problem.reference).reshape(len(x), -1).astype(np.float64)
        error = float(np.mean(np.sqrt(np.mean(apart**2, axis=1))))
        distance = problem.distance(x) if np.all(np.isfinite(x)) else float("nan")
        yield Row(text, kind, budget, steps, nfe, stochastic, error, distance, seconds), x


def _grid(problem: Problem, kind: str, steps: int) -> Grid:
    """A grid of `steps` steps from the problem's start to its end."""
    fields = {"num_steps": steps, "start": problem.start, "end": problem.end, "to_zero": False}
    return build("grid", GRIDS, {"name": kind, **fields})


def _start(sde: SDE) -> float:
    """t_max, or a time slightly below it where the log-SNR or the drift is infinite at t_max."""
    t_max = float(sde.t_max)
    return t_max if np.isfinite(sde.log_snr(t_max)) and np.isfinite(sde.drift(t_max)) else 0.999 * t_max


def write_table(rows: list[Row], path: pathlib.Path) -> None:
    """Writes the rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows([[f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows])


def draw(problem: Problem, rows: list[Row], path: pathlib.Path) -> None:
    """Draws two panels for each grid: the error of the flow for solvers without noise, and the distance of all samples."""
    panels: dict[str, dict[str, Any]] = {}
    units, floors = [], {}
    for kind in dict.fromkeys(row.grid for row in rows):
        for title, unit, value, kept in (
            (f"to the exact flow ({kind})", "mean distance per dimension", "error", lambda row: not row.stochastic),
            (f"to the data ({kind})", problem.distance_name, "distance", lambda row: True),
        ):
            chosen = [row for row in rows if row.grid == kind and kept(row) and np.isfinite(getattr(row, value))]
            if not chosen:
                continue
            panels[title] = {
                name: tuple(zip(*[(r.nfe, getattr(r, value)) for r in chosen if r.solver == name], strict=True))
                for name in dict.fromkeys(row.solver for row in chosen)
            }
            units.append(unit)
            if value == "distance" and problem.floor is not None:
                floors[title] = problem.floor
    error_by_evaluations(panels, path, units, f"Solvers on {problem.name}", floors)


def draw_strips(
    problem: Problem, rows: list[Row], samples: dict[tuple[str, str, int], Points], path: pathlib.Path
) -> bool:
    """Draws the same image or signal, or all points, for each solver (a row) and each budget (a column), on the first grid.

    Each panel is the end of a whole solve. Below it stand its actual steps and evaluations.

    Returns: whether there is a picture. Points with a dimension other than two have none.
    """
    kind, budgets = rows[0].grid, sorted({row.budget for row in rows})
    taken = {(row.solver, row.budget): row for row in rows if row.grid == kind}
    names = list(dict.fromkeys(solver for solver, _ in taken))
    panels = {name: [samples[name, kind, budget][:2000] for budget in budgets] for name in names}
    first = panels[names[0]][0]
    if first.ndim == 2 and first.shape[1] != 2:
        return False
    captions = {name: [_spent(taken[name, budget]) for budget in budgets] for name in names}
    heads = [f"budget {budget}" for budget in budgets]
    solver_strips(panels, heads, captions, path, f"Whole solves by their evaluations, on {kind}: {problem.name}")
    return True


def _spent(row: Row) -> str:
    return f"{row.steps} step{'s' * (row.steps > 1)}\n{row.nfe:.4g} evaluation{'s' * (row.nfe != 1)}"
