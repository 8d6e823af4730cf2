"""The code that deterministic solvers share: limits (α = 0, σ = 0, float32), identities, and bad fields."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from score_sde import sdes, solvers
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.solvers import history, integrators, sample
from score_sde.solvers.base import StepsLeft
from score_sde.solvers.ode import pndm
from score_sde.solvers.ode.adams import quadrature
from tests import ground_truth
from tests.conformance import DETERMINISTIC, SDES
from tests.solvers import replay

KEY = jax.random.key(0)
MIXTURE = GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in ground_truth.POINTS))
GAUSSIAN = GaussianMixture(jnp.ones(1), jnp.asarray([[0.7, -0.4]]), jnp.asarray([[0.6, 1.3]]))
ADAPTIVE = ("dpm_solver_12", "dpm_solver_23")
SOME = ("unipc",)  # in CI, of what costs seconds
FIXED = [name for name in DETERMINISTIC if name not in ADAPTIVE]


def moment(weight, k, low=0.0, high=1.0):
    """∫ weight(u) ((u − low)/(high − low))^k du, from low to high."""
    return integrate.quad(lambda u: weight(u) * ((u - low) / (high - low)) ** k, low, high, epsabs=0, limit=30)[0]


def test_phi():
    """Against its integral, in both precisions, where it is a series and where it is not."""
    for z in (-30.0, -2.1, -1.9, -1e-3, 0.0, 1e-3, 1.9, 2.1, 8.0):
        exact = [moment(lambda u, z=z: math.exp((1 - u) * z), k) / math.factorial(k) for k in range(5)]
        single = integrators.phi(jnp.float32(z), 5)
        np.testing.assert_allclose(single, exact, rtol=3e-6)
        with jax.enable_x64(True):
            double = integrators.phi(jnp.asarray(z, jnp.float64), 5)
        np.testing.assert_allclose(double, exact, rtol=2e-14 if abs(z) < 2 else 1e-13)
    np.testing.assert_array_equal(integrators.phi(jnp.float32(-jnp.inf), 3), [0.0, 0.0, 0.0])


def test_weights_are_integrals_of_lagranges_polynomials():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        nodes = jnp.asarray([-0.7, -1.9, -2.3])
        for order in (1, 2, 3, 4):
            gains = jnp.asarray([moment(np.exp, k) for k in range(4)])
            found = history.weights(nodes, jnp.asarray(order), gains)
            used = np.append(0.0, nodes)[:order]
            values = rng.standard_normal(order)
            polynomial = np.polynomial.Polynomial.fit(used, values, order - 1)
            exact = integrate.quad(lambda u, p=polynomial: np.exp(u) * p(u), 0, 1)[0]
            ours = gains[0] * values[0] + found[: order - 1] @ (values[1:] - values[0])
            np.testing.assert_allclose(ours, exact, rtol=1e-12)
            assert np.all(found[order - 1 :] == 0)


def test_nodes_that_are_left_out():
    gains, nodes = jnp.asarray([1.0, 0.5, 0.3]), jnp.asarray([-1.0, -jnp.inf])
    assert history.usable(3, nodes, gains) == 2
    assert history.usable(3, nodes[::-1], gains) == 1
    assert history.usable(3, nodes[:1], gains.at[1].set(jnp.nan)) == 1
    for back in ([-1.0, -1.0], [-1.0, -0.5], [-1.0, 0.2]):
        assert history.usable(3, jnp.asarray(back), gains) == 2
    assert history.usable(3, jnp.asarray([0.0, -1.0]), gains) == 1
    np.testing.assert_allclose(history.weights(nodes, jnp.asarray(2), gains), [-0.5, 0.0])


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["unipc", "dpm_solver_pp_3m", "deis", "lms"])
def test_a_step_after_a_restart_does_without_the_past(name):
    """Back at a time of before, and with another x: the step is that of a fresh solve, DDIM's."""
    sde, solver = sdes.VP(), DETERMINISTIC[name]
    x, other = jnp.asarray([[0.3, -1.2]]), jnp.asarray([[-0.9, 0.4]])
    _, carry, _ = one_step(solver, sde, 0.7, 0.6, x)
    for t, s in ((0.7, 0.6), (0.8, 0.7)):
        args = other, jnp.asarray(t), jnp.asarray(s), carry, []
        again, *_ = replay.step(solver, MIXTURE.denoise(sde), *args)
        np.testing.assert_allclose(again, one_step(solvers.DDIM(), sde, t, s, other)[0], atol=1e-6)


def test_orders_rise_at_the_start_and_fall_at_the_end():
    def orders(num_steps, below):
        past = history.start(jnp.zeros((1, 1)), 2, num_steps)
        found = []
        for _ in range(num_steps):
            found.append(int(past.order(3, below)))
            past = past.push(jnp.zeros((1, 1)), jnp.zeros(()))
        return found

    assert orders(6, 10) == [1, 2, 3, 3, 2, 1]
    assert orders(6, 6) == [1, 2, 3, 3, 3, 3]
    assert orders(2, history.ALWAYS) == [1, 1]


def test_weights_of_ipndm():
    """(55, −59, 37, −9)/24 and those of fewer answers."""
    num_steps = jnp.asarray(9, jnp.int32)
    for made, expected in enumerate(((1,), (3, -1), (23, -16, 5), (55, -59, 37, -9))):
        weights = []
        for i in range(made + 1):  # the combination of answers of which the i-th is 1 and the others 0
            units = jnp.zeros((4, 1, 1)).at[i].set(1.0)
            left = StepsLeft(num_steps - made)
            past = history.History(units[1:], jnp.zeros(3), jnp.asarray(made, jnp.int32), num_steps, left)
            weights.append(float(pndm.adams(past, 4, units[0])[0, 0]))
        np.testing.assert_allclose(weights, np.array(expected) / sum(expected), atol=1e-6)


def test_deis_weights():
    """∫ over time of the paper's Eq. 15, with its derivative of σ/α, for a schedule without a closed form."""
    with jax.enable_x64(True):
        for name, t, s in (("vp", 0.7, 0.55), ("vp", 0.02, 0.0), ("log_snr", 0.5, 0.45)):
            sde = SDES[name]
            gains = solvers.DEIS()._gains(sde, jnp.asarray(t), jnp.asarray(s))

            rate = jax.jit(jax.grad(lambda u, sde=sde: sde.sigma(u) / sde.alpha(u)))

            exact = [float(sde.alpha(s)) * moment(lambda u, f=rate: float(f(u)), k, t, max(s, 1e-12)) for k in range(2)]
            np.testing.assert_allclose(gains[:2], exact, rtol=1e-6)
        nodes, weights = quadrature(jnp.float64)
        np.testing.assert_allclose([weights @ nodes**k for k in range(32)], 1 / np.arange(1, 33), rtol=1e-13)


def walk(solver, sde, times, x, denoise=None):
    denoise = MIXTURE.denoise(sde) if denoise is None else denoise
    states, nfe = replay.solve(solver, denoise, x, times)
    return states, nfe


@pytest.mark.few(6)
@pytest.mark.parametrize("name", FIXED)
def test_from_where_the_signal_is_gone_to_where_the_noise_is_gone(name):
    """Flow from α = 0 to σ = 0, in float32: finite, and near the exact solution for Gaussian data."""
    sde = sdes.Flow()
    x = np.asarray([[0.3, -1.2], [1.5, 0.1]], np.float32)
    times = solvers.grids.Uniform(60, end=0.01, to_zero=True).times(sde)
    states, nfe = walk(DETERMINISTIC[name], sde, times, x, GAUSSIAN.denoise(sde))
    exact = GAUSSIAN.means + GAUSSIAN.stds * x  # x_1 is pure noise
    assert np.all(np.isfinite(states))
    np.testing.assert_allclose(states[-1], exact, atol=0.02)
    assert nfe >= 60


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in SOME else pytest.mark.slow) for n in FIXED])
def test_float32_keeps_the_digits_of_short_steps(name):
    """1000 steps end where they do in float64."""
    grid = solvers.grids.EDMRho(1000, end=1e-3, to_zero=False)
    start = np.asarray([[0.3, -1.2], [1.5, 0.1]])
    ends = []
    for x64 in (False, True):
        with jax.enable_x64(x64):
            x = jnp.asarray(start, jnp.result_type(float))
            mixture = GaussianMixture(*(jnp.asarray(part, x.dtype) for part in ground_truth.POINTS))
            sde = sdes.VP()
            ends.append(np.asarray(sample(KEY, mixture.denoise(sde), DETERMINISTIC[name], grid, x.shape, x_start=x).x))
    assert ends[0].dtype == np.float32
    np.testing.assert_allclose(ends[0], ends[1], atol=2e-4)


def one_step(solver, sde, t, s, x):
    args = x, jnp.asarray(t), jnp.asarray(s), solver.init(x, 1), [jnp.zeros_like(x)]
    return replay.step(solver, MIXTURE.denoise(sde), *args)


def test_first_orders_are_ddim():
    x = jnp.asarray([[0.3, -1.2], [1.5, 0.1]])
    firsts = (
        solvers.DPMSolver(1),
        solvers.DPMSolverMultistep(1),
        solvers.UniPC(1),
        solvers.DEIS(1),
        solvers.LMS(1),
        solvers.IPNDM(1),
        solvers.AdamsBashforth(1, "flow"),
        solvers.ExponentialAdamsBashforth(1),
    )
    sde = sdes.SubVP()
    expected, *_ = one_step(solvers.DDIM(), sde, 0.6, 0.4, x)
    for solver in firsts:
        np.testing.assert_allclose(one_step(solver, sde, 0.6, 0.4, x)[0], expected, atol=2e-6)


def test_the_rosenbrock_method_is_exact_for_the_gaussian_it_is_made_for():
    """Its exponential holds the whole of N(0, σ_data² I): v̂ does not change, whatever the step."""
    data = GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.full((1, 2), 0.4))
    sde, x = sdes.VP(), jnp.asarray([[0.3, -1.2]])
    for solver in (solvers.ExponentialAdamsBashforth(2, "v", 0.4), solvers.AdamsBashforth(2, "v", 0.4)):
        states, _ = walk(solver, sde, np.asarray([0.9, 0.5, 0.05], np.float32), np.asarray(x), data.denoise(sde))
        std = [float(jnp.hypot(0.4 * sde.alpha(t), sde.sigma(t))) for t in (0.9, 0.05)]
        np.testing.assert_allclose(states[-1], x * std[1] / std[0], rtol=1e-5)


@pytest.mark.slow
def test_equal_methods():
    """DEIS in log ρ is the "taylor" multistep DPM-Solver; LMS is DEIS in ρ; UniP-3 is DPM-Solver++(3M); and so on."""
    sde, x = sdes.VP(), np.asarray([[0.3, -1.2], [1.5, 0.1]], np.float32)
    times = solvers.grids.LogSNRUniform(12, end=0.01).times(sde)
    pairs = (
        (solvers.DEIS(3, "log_rho"), solvers.DPMSolverMultistep(3, "taylor", 0)),
        (solvers.LMS(), solvers.DEIS(4, "rho")),
        (solvers.UniPC(3, correct=False, lower_order_below=0), solvers.DPMSolverPP3M("dpmsolver", 0)),
    )
    for a, b in pairs:
        np.testing.assert_allclose(walk(a, sde, times, x)[0][-1], walk(b, sde, times, x)[0][-1], atol=1e-5)
    custom = solvers.RungeKutta(tableau=(((0.5,),), (0.0, 1.0)))
    np.testing.assert_array_equal(
        walk(custom, sde, times, x)[0], walk(solvers.RungeKutta("midpoint"), sde, times, x)[0]
    )


def test_on_edm_runge_kutta_is_what_edm_makes_it():
    """u = x, τ = t there."""
    sde, x = sdes.EDM(), jnp.asarray([[20.0, -9.0]])
    for solver, fraction in ((solvers.RungeKutta("heun"), 1.0), (solvers.RungeKutta("midpoint"), 0.5)):
        ours, *_ = one_step(solver, sde, 10.0, 6.0, x)
        np.testing.assert_allclose(ours, one_step(solvers.EDMHeun(fraction=fraction), sde, 10.0, 6.0, x)[0], rtol=2e-6)


def test_evaluations_of_the_last_step():
    """A method that evaluates only inside of the step does so also in the one to σ = 0."""
    x = jnp.asarray([[0.3, -1.2]])
    expected = {
        solvers.RungeKutta("midpoint"): 2,
        solvers.RungeKutta("heun"): 1,
        solvers.DPMSolver(3): 1,
        solvers.DPMSolverPP2S(): 1,
        solvers.DPM2(): 1,
        solvers.PNDM(): 1,
        solvers.UniPC(correct_last=True): 1,
    }
    for solver, number in expected.items():
        y, _, evaluations = one_step(solver, sdes.VP(), 0.1, 0.0, x)
        assert evaluations == number, solver
        assert np.all(np.isfinite(y))
    assert one_step(solvers.UniPC(correct_last=True), sdes.VP(), 0.1, 0.05, x)[2] == 2


def test_bad_fields():
    for wrong in (
        lambda: solvers.DPMSolver(4),
        lambda: solvers.DPMSolver(3, 0.5, 0.4),
        lambda: solvers.DPMSolverPP2S(0.0),
        lambda: solvers.DPMSolverPP3S(0.7),
    ):
        with pytest.raises(ValueError, match="needs order 1, 2 or 3 and 0 < r1 <= 1, and r1 < r2 <= 1 in order 3; got"):
            wrong()
    for family in (
        solvers.DPMSolver,
        solvers.DPMSolverPP2S,
        solvers.DPMSolverPP3S,
        solvers.DPMSolverMultistep,
        solvers.DPMSolverPP2M,
        solvers.DPMSolverPP3M,
        solvers.DPMSolver12,
    ):
        with pytest.raises(
            ValueError, match=f"{family.__name__} needs solver_type among dpmsolver, taylor, got 'heun'"
        ):
            family(solver_type="heun")
    for family in (solvers.DPMSolverMultistep, solvers.UniPC):
        with pytest.raises(ValueError, match=f"{family.__name__} needs order 1, 2 or 3, got order=4"):
            family(4)
    with pytest.raises(ValueError, match="DPMSolverFast needs remainder 0, 1 or 2, got remainder=3"):
        solvers.DPMSolverFast(3)
    with pytest.raises(ValueError, match="DPMSolverFast needs predicts among eps, x0, got 'v'"):
        solvers.DPMSolverFast(predicts="v")
    with pytest.raises(ValueError, match="UniPC needs variant among bh1, bh2, got 'bh3'"):
        solvers.UniPC(variant="bh3")
    with pytest.raises(ValueError, match="UniPC needs predicts among eps, x0, got 'v'"):
        solvers.UniPC(predicts="v")
    with pytest.raises(ValueError, match="DEIS needs variable among t, rho, log_rho, got 'x'"):
        solvers.DEIS(variable="x")
    with pytest.raises(ValueError, match="AdamsBashforth needs predicts among eps, flow, v, got 'x0'"):
        solvers.AdamsBashforth(predicts="x0")
    with pytest.raises(ValueError, match="ExponentialAdamsBashforth needs predicts among eps, x0, v, got 'flow'"):
        solvers.ExponentialAdamsBashforth(predicts="flow")
    for family in (solvers.AdamsBashforth, solvers.LMS, solvers.DEIS):
        with pytest.raises(ValueError, match="needs order >= 1 and sigma_data > 0, got order=0"):
            family(0)
    with pytest.raises(ValueError, match="AdamsBashforth needs order >= 1 and sigma_data > 0.*sigma_data=0"):
        solvers.AdamsBashforth(sigma_data=0.0)
    with pytest.raises(ValueError, match="IPNDM needs order >= 1, got order=0"):
        solvers.IPNDM(0)
    with pytest.raises(ValueError, match="PNDM needs warm_up among runge_kutta, plms, got 'none'"):
        solvers.PNDM("none")
    with pytest.raises(ValueError, match="RungeKutta needs method among midpoint, heun"):
        solvers.RungeKutta("euler")
    for tableau in (
        (((0.5,),), (0.5, 0.4)),
        (((0.5,),), (1.0,)),
        (((0.5, 0.5),), (0.0, 1.0)),
        (((1.5,),), (0.5, 0.5)),
    ):
        with pytest.raises(ValueError, match=r"RungeKutta needs a tableau .*Σ b = 1"):
            solvers.RungeKutta(tableau=tableau)
