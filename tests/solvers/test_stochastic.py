"""The stochastic solvers: right mean and variance, order, one Brownian path, identities between them, limits, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.solvers import brownian, exponential, sample
from tests import ground_truth
from tests.conformance import GRIDS, SDES, STOCHASTIC
from tests.solvers import linear

DATA = np.array([0.7, 0.6])  # mean and standard deviation
VP = sdes.VP()
KEY = jax.random.key(4)

# Others have weak order 2 on Gaussian data; StepScale adds the same noise in a step of any length.
ORDER = {"ancestral_ddim": 1, "ancestral_2m": 1, "step_scale": 0, "corrected": 0}
ALSO_ON_FLOW = ("sde", "2m", "sa", "ancestral_heun")  # without --slow; α = 0 at its t_max


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def combinations():
    """Every SDE with every solver; without --slow VP with all, and Flow with some."""
    for name in STOCHASTIC:
        for sde_name in SDES:
            soon = sde_name == "vp" or (sde_name == "flow" and name in ALSO_ON_FLOW)
            yield pytest.param(name, sde_name, marks=() if soon else pytest.mark.slow, id=f"{name}-{sde_name}")


@pytest.mark.few(3)
@pytest.mark.parametrize(("name", "sde_name"), list(combinations()))
def test_mean_and_variance(name, sde_name):
    times = GRIDS["log_snr_uniform"](SDES[sde_name], 80).times(SDES[sde_name])
    coarse = GRIDS["log_snr_uniform"](SDES[sde_name], 40).times(SDES[sde_name])
    errors = [linear.error(STOCHASTIC[name], SDES[sde_name], DATA, grid) for grid in (coarse, times)]
    order = ORDER.get(name, 2)
    assert errors[1] < (0.1 if order < 2 else 0.02), errors
    assert errors[1] < {0: 0.8, 1: 0.7, 2: 0.4}[order] * errors[0] or errors[1] < 1e-4, errors


def short(solver):
    """The end of a short solve, always with the same key and start."""
    return np.asarray(run(solver, solvers.grids.LogSNRUniform(12)))


def run(solver, grid, key=KEY, sde=VP, denoise=None, x=None):
    x = START if x is None else x
    denoise = exact_denoise(sde) if denoise is None else denoise
    return sample(key, denoise, solver, grid, x.shape, x_start=x).x


START = np.random.default_rng(0).standard_normal((16, 2))


def exact_denoise(sde):
    return GaussianMixture(*(jnp.asarray(part) for part in ground_truth.POINTS)).denoise(sde)


def test_without_noise_they_are_the_deterministic_ones():
    agree = {"rtol": 1e-7, "atol": 1e-9}
    np.testing.assert_allclose(
        short(solvers.DPMSolverPP2MSDE(eta=0.0)), short(solvers.DPMSolverPP2M(lower_order_below=0)), **agree
    )
    np.testing.assert_allclose(
        short(solvers.DPMSolverPP3MSDE(eta=0.0)), short(solvers.DPMSolverPP3M(lower_order_below=0)), atol=1e-4
    )
    np.testing.assert_allclose(short(solvers.DPMSolverPPSDE(eta=0.0)), short(solvers.DPMSolverPP2S()), **agree)
    for order, same in (
        (1, solvers.DDIM()),
        (2, solvers.DPMSolverPP2MSDE(0.0, 1.0, "heun")),
        (3, solvers.DPMSolverPP3MSDE(0.0)),
    ):
        ours = solvers.SASolver(0.0, predictor_order=order, corrector_order=0)
        np.testing.assert_allclose(short(ours), short(same), **agree)
    for wrapped in (solvers.AncestralSteps(solvers.Heun(), 0.0), solvers.Churn(solvers.Heun())):
        np.testing.assert_allclose(short(wrapped), short(solvers.Heun()), **agree)


@pytest.mark.slow
def test_sa_solver_with_noise_is_the_multistep_sde():
    """Predictors alone, with the same keys, at η = τ²."""
    for order, same in ((2, solvers.DPMSolverPP2MSDE(0.64, 1.0, "heun")), (3, solvers.DPMSolverPP3MSDE(0.64))):
        ours = solvers.SASolver(0.8, predictor_order=order, corrector_order=0)
        np.testing.assert_allclose(short(ours), short(same), rtol=1e-7, atol=1e-9)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("predictor", "corrector", "order"), [(1, 0, 1), (1, 1, 2), (2, 0, 2), (2, 2, 3), (3, 0, 3), (3, 3, 4)]
)
def test_order_of_sa_solver_without_noise(predictor, corrector, order):
    solver = solvers.SASolver(0.0, predictor_order=predictor, corrector_order=corrector)
    exact = np.asarray(run(solvers.ProbabilityFlow(1e-11, 1e-11), solvers.grids.Uniform(1, end=0.05)))
    errors = [
        np.abs(np.asarray(run(solver, solvers.grids.LogSNRUniform(steps, end=0.05))) - exact).mean()
        for steps in (160, 320)
    ]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.5, errors


def test_the_authors_third_order_loses_an_order():
    """Half the weight of the second difference, as in the code of DPM-Solver++ and k-diffusion, against the exact flow."""
    exact = np.asarray(run(solvers.ProbabilityFlow(1e-11, 1e-11), solvers.grids.Uniform(1, end=0.05)))
    orders = {}
    for solver_type in ("taylor", "dpmsolver"):
        solver = solvers.DPMSolverPP3MSDE(0.0, 1.0, solver_type)
        errors = [
            np.abs(np.asarray(run(solver, solvers.grids.LogSNRUniform(steps, end=0.05))) - exact).mean()
            for steps in (160, 320)
        ]
        orders[solver_type] = np.log2(errors[0] / errors[1]), errors[1]
    assert abs(orders["taylor"][0] - 3) < 0.3
    assert abs(orders["dpmsolver"][0] - 2) < 0.3
    assert orders["dpmsolver"][1] > 3 * orders["taylor"][1]


CONSISTENT = {
    "sde": (solvers.DPMSolverPPSDE(consistent=True), solvers.DPMSolverPPSDE()),
    "2m": (solvers.DPMSolverPP2MSDE(consistent=True), solvers.DPMSolverPP2MSDE()),
    "sa": (solvers.SASolver(consistent=True), solvers.SASolver()),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("name", CONSISTENT)
def test_strong_convergence_along_one_path(name):
    """The same key on grids of 20, 40 and 80 steps against 640: the images converge with the path, and not without."""
    ends = {}
    for solver, kind in zip(CONSISTENT[name], ("path", "fresh"), strict=True):
        x = {n: np.asarray(run(solver, solvers.grids.LogSNRUniform(n, end=0.05))) for n in (20, 40, 80, 640)}
        ends[kind] = [np.mean(np.abs(x[n] - x[640])) for n in (20, 40, 80)]
    assert ends["path"][2] < 0.35 * ends["path"][0], ends
    assert ends["path"][2] < 0.1 * ends["fresh"][2], ends


def test_on_point_data_a_path_has_no_error_at_all():
    """Where x̂0 is constant every grid ends at the same image."""
    point = GaussianMixture(jnp.ones(1), jnp.asarray([[0.7, -0.3]]), jnp.zeros((1, 2))).denoise(VP)
    for solver in (solvers.DPMSolverPP2MSDE(0.7, consistent=True), solvers.DPMSolverPPSDE(consistent=True)):
        coarse, fine = (run(solver, solvers.grids.LogSNRUniform(n, end=0.1), denoise=point) for n in (4, 17))
        np.testing.assert_allclose(coarse, fine, atol=1e-9)


@pytest.mark.slow
def test_increments_of_a_path_add_up_and_have_the_right_law():
    key, x = jax.random.split(jax.random.key(1), 4000), jnp.zeros((4000, 2))
    levels = jnp.asarray([-1.3, -0.9, 0.4, 0.41, 6.0])
    seeds = jax.vmap(lambda k: jax.random.bits(k, (2,), jnp.uint32))(key)
    path = np.stack([np.asarray(jax.jit(brownian.ornstein_uhlenbeck)(seeds, VP, x, level)) for level in levels])
    flat = path.reshape(5, -1)
    assert np.abs(flat.mean(axis=1)).max() < 4 / np.sqrt(flat.shape[1])
    expected = np.exp(-np.abs(levels[:, None] - levels[None]))
    assert np.abs(np.cov(flat) - expected).max() < 5 * np.sqrt(2 / flat.shape[1])
    carry = brownian.init(x, True)
    gaps = tuple(levels[1:] - levels[0])
    drawn, carry = brownian.increments(key, VP, x, carry, tuple(levels), gaps)
    later, _ = brownian.increments(
        jax.random.split(KEY, 4000), VP, x, carry, tuple(levels[1:]), (levels[2] - levels[1],) * 3
    )
    np.testing.assert_allclose(drawn[1], np.exp(-(levels[2] - levels[1])) * drawn[0] + later[0], atol=1e-12)
    assert abs(np.var(drawn[2]) / -np.expm1(-2 * gaps[2]) - 1) < 5 * np.sqrt(2 / drawn[2].size)


def test_fresh_increments_add_up_within_a_step():
    x = jnp.zeros((5000, 2))
    levels, gaps = (jnp.asarray(0.0),) * 3, (jnp.asarray(0.3), jnp.asarray(0.8))
    (first, second), _ = brownian.increments(KEY, VP, x, (), levels, gaps)
    covariance = np.cov(np.ravel(first), np.ravel(second))
    expected = -np.expm1(-0.6) * np.array([[1, np.exp(-0.5)], [np.exp(-0.5), np.expm1(-1.6) / np.expm1(-0.6)]])
    assert np.abs(covariance - expected).max() < 5 * np.sqrt(2 / 10_000)


def test_moments_of_the_kernel():
    for k in (-3.0, -0.2, 0.0, 1e-6, 0.4, 0.999, 1.001, 30.0):
        u, w = np.polynomial.legendre.leggauss(60)
        u, w = (u + 1) / 2, w / 2
        expected = [np.sum(w * k * np.exp(-k * (1 - u)) * u**j) for j in range(4)]
        np.testing.assert_allclose(exponential.moments(jnp.asarray(k), 4), expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_array_equal(exponential.moments(jnp.asarray(jnp.inf), 3), 1.0)


def test_weights_integrate_polynomials_exactly():
    nodes = [jnp.asarray(v) for v in (0.0, 1.0, -0.7, -1.1)]
    integrals = exponential.moments(jnp.asarray(0.8), 4)
    weights = np.asarray(exponential.weights(nodes, integrals))
    for power in range(4):
        assert abs(weights @ np.asarray(nodes) ** power - float(integrals[power])) < 1e-12
    missing = np.asarray(exponential.weights([*nodes[:2], jnp.asarray(-jnp.inf), jnp.asarray(-jnp.inf)], integrals))
    np.testing.assert_allclose(missing, [integrals[0] - integrals[1], integrals[1], 0, 0], atol=1e-12)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["sde", "2m", "3m", "sa", "ancestral_heun", "churn", "step_scale"])
def test_steps_to_zero_and_from_the_end_are_finite(name):
    """To σ = 0 the step is x̂0; from α = 0, where `Flow` starts, it draws the posterior of an unknown x."""
    solver = STOCHASTIC[name]
    for sde in (VP, sdes.Flow(), sdes.EDM()):
        times = solvers.grids.Uniform(5, end=1e-2 * sde.t_max, to_zero=True)
        x = np.asarray(run(solver, times, sde=sde, x=float(sde.sigma(sde.t_max)) * START))
        assert np.all(np.isfinite(x))
    if name not in ("ancestral_heun", "churn", "step_scale"):
        t, x = jnp.asarray(0.3), jnp.asarray(START)
        x0 = exact_denoise(VP)(x, t).x0
        np.testing.assert_allclose(run(solver, solvers.grids.Given([0.3, 0.0]), x=START), x0, rtol=1e-9)


@pytest.mark.slow
def test_the_number_of_evaluations():
    expected = {"sde": 23, "2m": 12, "3m": 12, "sa": 12, "ancestral_heun": 23, "ancestral_ddim": 12, "churn": 23}
    for name, number in expected.items():
        grid = solvers.grids.Uniform(12, end=0.01, to_zero=True)
        nfe = sample(KEY, exact_denoise(VP), STOCHASTIC[name], grid, (3, 2)).nfe
        assert np.all(np.asarray(nfe) == number), (name, nfe)


@pytest.mark.slow
def test_an_image_is_the_same_in_any_batch():
    for solver in (solvers.SASolver(consistent=True), solvers.AncestralSteps(solvers.DPMSolverPP2M())):

        def draw(number, first_index=0, solver=solver):
            grid = solvers.grids.Uniform(6, end=0.01)
            return sample(KEY, exact_denoise(VP), solver, grid, (number, 2), first_index=first_index).x

        np.testing.assert_allclose(draw(2, 3), draw(6)[3:5], rtol=1e-9)


def test_bad_fields():
    for solver, match in (
        (lambda: solvers.DPMSolverPPSDE(eta=1.1), "DPMSolverPPSDE needs 0 <= eta <= 1, 0 < r < 1 .*got eta=1.1"),
        (lambda: solvers.DPMSolverPPSDE(r=1.0), "got eta=1.0, r=1.0"),
        (lambda: solvers.DPMSolverPP2MSDE(eta=-1.0), "DPMSolverPP2MSDE needs eta >= 0, s_noise >= 0 and a solver_type"),
        (lambda: solvers.DPMSolverPP2MSDE(solver_type="euler"), "solver_type of midpoint or heun, got"),
        (lambda: solvers.DPMSolverPP3MSDE(solver_type="heun"), "solver_type of taylor or dpmsolver, got"),
        (lambda: solvers.SASolver(tau=-1.0), "SASolver needs tau >= 0, 0 <= S_min <= S_max, predictor_order from 1"),
        (lambda: solvers.SASolver(predictor_order=2), "corrector_order from 0 to that, got SASolver"),
        (lambda: solvers.AncestralSteps(solvers.DDIM(), 1.5), "AncestralSteps needs 0 <= eta <= 1 and s_noise >= 0"),
        (lambda: solvers.Churn(solvers.DDIM(), -1.0), "Churn needs S_churn >= 0, 0 <= S_min <= S_max"),
        (lambda: solvers.StepScale(solvers.DDIM(), -1.0), "StepScale needs step_scale, noise_scale, gamma_0"),
        (lambda: solvers.Restart(solvers.DDIM(), -1.0), "Restart needs S_noise >= 0, got S_noise=-1.0"),
    ):
        with pytest.raises(ValueError, match=match):
            solver()
