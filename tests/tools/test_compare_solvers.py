"""compare_solvers: on the mixture and on a trained run, the table, the pictures, and one program for each solver."""

import csv
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import density2d
from experiments.results import run_comparison
from score_sde import solvers
from score_sde.experiment import Experiment
from score_sde.runs import run_training
from score_sde.tools import compare_solvers as comparison
from score_sde.tools import solver_specs as specs
from score_sde.trained import restored
from tests.solvers.test_sample import compilations


def test_solvers_as_text():
    assert specs.split("ddim(eta=1.0),heun, restart(solver=ddim(eta=0.5), S_noise=1.0)") == [
        "ddim(eta=1.0)",
        "heun",
        "restart(solver=ddim(eta=0.5), S_noise=1.0)",
    ]
    assert specs.solver_of("ddim(eta=1.0)") == solvers.DDIM(1.0)
    assert specs.solver_of("ancestral_steps(solver=heun, eta=0.8)") == solvers.AncestralSteps(solvers.Heun(), 0.8)
    for text in ("ddim(1)", "ddim(", "3", "a.b(c=1)"):
        with pytest.raises(ValueError, match="A solver is written as name or name"):
            specs.solver_of(text)
    with pytest.raises(ValueError, match="Did you mean 'heun'"):
        specs.solver_of("huen")


@pytest.fixture(scope="module")
def problem():
    return comparison.mixture_problem("vp", 512)


def test_sliced_wasserstein_of_sets_on_a_line():
    """There every direction is ±1, and W₁ is the mean distance of the sorted points: by hand."""
    distance = comparison.sliced_wasserstein
    two, others = np.array([[1.0], [0.0]]), np.array([[2.0], [5.0]])
    np.testing.assert_allclose(distance(two, others), 3.0, rtol=1e-9)  # (2 − 0 + 5 − 1)/2
    np.testing.assert_allclose(distance(others, two), 3.0, rtol=1e-9)
    line = np.linspace(-1, 1, 201)[:, None]
    np.testing.assert_allclose(distance(line, -line), 0, atol=1e-9)
    np.testing.assert_allclose(distance(line, 3 * line), 2 * 0.5, rtol=1e-3)  # 2 E|x|
    np.testing.assert_allclose(distance(line, line - 0.7), 0.7, rtol=1e-9)
    spread = np.where(np.arange(1000) < 100, 10.0, 0.0)[:, None]  # a tenth of the points is 10 away: 1, and W₂ has 3.2
    np.testing.assert_allclose(distance(np.zeros((50, 1)), spread), 1.0, rtol=0.01)


def test_sliced_wasserstein_is_the_mean_over_directions():
    """In the plane a shift by c counts |c| E|cos| = 2|c|/π, whatever the shape of the examples and their number."""
    x = np.random.default_rng(0).standard_normal((100, 2))
    shifted = np.concatenate([x, x]) + np.array([3.0, -4.0])
    found = comparison.sliced_wasserstein(x, shifted, projections=1000)
    assert abs(found - 10 / np.pi) < 5 * 5 * np.sqrt(0.5 - 4 / np.pi**2) / np.sqrt(1000)
    images = comparison.sliced_wasserstein(x.reshape(100, 1, 2, 1), shifted.reshape(200, 1, 2, 1), projections=1000)
    assert images == found


def test_errors_fall_and_budgets_are_kept(problem, tmp_path):
    budgets, names = [6, 12, 48], ["ddim", "heun", "ancestral"]
    rows = run_comparison(problem, tmp_path, names, budgets, ["edm_rho"])
    assert len(rows) == 9
    assert all(row.nfe <= row.budget and row.nfe > row.budget - 2 for row in rows)
    by_name = {name: [r for r in rows if r.solver == name and r.grid == "edm_rho"] for name in names}
    assert [row.stochastic for row in by_name["ancestral"]] == [True] * 3
    assert not any(row.stochastic for name in ("ddim", "heun") for row in by_name[name])
    for name in ("ddim", "heun"):
        errors = [row.error for row in by_name[name]]
        assert errors[0] > errors[1] > errors[2]
        assert by_name[name][2].distance < 2.5 * problem.floor
    assert by_name["heun"][2].error < 0.3 * by_name["ddim"][2].error
    with (tmp_path / "comparison.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["solver"] for row in table] == [row.solver for row in rows]
    assert float(table[0]["error"]) == pytest.approx(rows[0].error, rel=1e-5)
    assert comparison._spent(by_name["heun"][0]) == "3 steps\n6 evaluations"
    for picture in ("comparison.png", "strips.png"):
        assert (tmp_path / picture).stat().st_size > 5000


@pytest.mark.slow
def test_all_budgets_and_grids_run_by_one_program(problem):
    comparison.compare(problem, ["heun"], [6], ["edm_rho"], show=lambda line: None)
    comparison.compare(problem, ["heun"], [6], ["uniform", "log_snr_uniform"], show=lambda line: None)
    with compilations() as seen:
        comparison.compare(problem, ["heun"], [9, 17, 40], ["uniform", "log_snr_uniform"], show=lambda line: None)
    assert not seen


@pytest.mark.slow
def test_an_adaptive_solver_has_one_step(problem):
    rows, _ = comparison.compare(
        problem, ["probability_flow(rtol=1e-3, atol=1e-3)"], [10], ["uniform"], show=lambda line: None
    )
    assert rows[0].steps == 1
    assert rows[0].nfe > 10
    assert rows[0].error < 0.05


def test_sliced_wasserstein():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 3))
    assert comparison.sliced_wasserstein(x, x) == 0
    shifted = comparison.sliced_wasserstein(x, x + np.array([1.0, 0, 0]))
    assert shifted == pytest.approx(0.5, rel=0.2)  # E |direction · shift|
    assert comparison.sliced_wasserstein(x, 2 * x) == pytest.approx(np.sqrt(2 / np.pi), rel=0.05)


@pytest.mark.slow
def test_a_trained_run(tmp_path):
    config = density2d.get_config("moons")
    config.network.update({"width": 16, "depth": 1})
    config.data.train.num_examples = config.data.eval.num_examples = 300
    config.training.update({"num_steps": 5, "batch_size": 32, "log_every": 5, "checkpoint_every": 5})
    config.mesh.num_devices = 1
    experiment = Experiment(config)
    with jax.numpy_dtype_promotion("standard"):
        run_training(experiment, tmp_path, quiet=True)
    problem = comparison.run_problem(restored(experiment, tmp_path), 64, reference_steps=50)
    rows = run_comparison(problem, tmp_path / "solvers", ["ddim", "heun"], [5, 40], ["edm_rho"])
    assert rows[3].error < rows[0].error
    assert (tmp_path / "solvers" / "strips.png").is_file()
    config.sampling.threshold = {"name": "static", "limit": 1e-3}
    limited = comparison.run_problem(restored(Experiment(config), tmp_path), 64, reference_steps=50)
    assert np.abs(limited.denoise(limited.x_start, jax.numpy.float32(0.5)).x0).max() == np.float32(1e-3)


@pytest.mark.slow
def test_the_command(tmp_path):
    command = [sys.executable, "-m", "experiments.compare_solvers", "--solvers=ddim,heun", "--nfe=5,10", "--number=64"]
    done = subprocess.run([*command, f"--output={tmp_path}"], capture_output=True, text=True, check=True)
    assert "4 runs in" in done.stdout
    broken = subprocess.run([*command, "--grids=evn"], capture_output=True, text=True, check=False)
    assert "config.grid.name needs one of" in broken.stderr
