"""Knobs of the solvers away from their neutral values: scales and bounds of the noise, v, η, correct_last, Restart.

The data are one Gaussian, so that x̂0 is an affine function of x, and so is each step a function of its noise.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.denoising.gaussian_mixture import GaussianMixture

KEY = jax.random.key(11)
VP = sdes.VP()
X = np.asarray([[0.3, -1.2], [1.5, 0.1]])
T, S = 0.6, 0.5
PARTS = np.ones(1), np.asarray([[0.7, -0.3]]), np.asarray([[0.6, 1.1]])


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def exact():
    return GaussianMixture(*(jnp.asarray(part) for part in PARTS)).denoise(VP)


def agree(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-10)


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def _step(key, solver, x, t, s, carry):
    return solver.step(key, exact(), x, t, s, carry)


def step(solver, t=T, s=S, key=KEY, x=X, carry=None):
    """(x_s, carry, evaluations); without `carry` it is the first of 10 steps."""
    x, carry = jnp.asarray(x), solver.init(jnp.asarray(x), 10) if carry is None else carry
    return _step(key, solver, x, jnp.asarray(t), jnp.asarray(s), carry)


def hand(t=T, s=S):
    """(α_s, σ_s, σ_t, α_{t|s}, σ_{t|s}, h), with h the step in log(α/σ)."""
    (alpha_t, sigma_t), (alpha, sigma) = ((float(v) for v in VP.marginal(jnp.asarray(u))) for u in (t, s))
    scale = alpha_t / alpha
    h = np.log(alpha / sigma * sigma_t / alpha_t)
    return alpha, sigma, sigma_t, scale, np.sqrt(sigma_t**2 - (scale * sigma) ** 2), h


def answers(x=X, t=T):
    return tuple(np.asarray(part) for part in exact()(jnp.asarray(x), jnp.asarray(t)))


SCALES = {
    "edm_heun": (solvers.EDMHeun(S_churn=4.0), "S_noise"),
    "churn": (solvers.Churn(solvers.DPM2(), S_churn=4.0), "S_noise"),
    "step_scale": (solvers.StepScale(solvers.DDIM(), gamma_min=0.1), "noise_scale"),
    "ancestral_steps": (solvers.AncestralSteps(solvers.Heun(), eta=0.7), "s_noise"),
    "sde": (solvers.DPMSolverPPSDE(eta=0.7, r=0.4), "s_noise"),
    "sde_path": (solvers.DPMSolverPPSDE(consistent=True), "s_noise"),
    "2m": (solvers.DPMSolverPP2MSDE(eta=0.7), "s_noise"),
    "3m_path": (solvers.DPMSolverPP3MSDE(consistent=True), "s_noise"),
    # Two steps, whatever the noise: the second, to the end, adds none.
    "adaptive": (solvers.DPMSolver12(rtol=1e6, atol=1e6, h_init=0.1, eta=0.7), "s_noise"),
    "restart": (solvers.Restart(solvers.DDIM()), "S_noise"),
}


@pytest.mark.parametrize("name", SCALES)
def test_the_noise_is_proportional_to_its_scale(name):
    """x(c) − x(0) = c (x(1) − x(0)) with the same key; at c = 0 the key does not matter."""
    solver, field = SCALES[name]
    ends = (0.3, 0.5) if name == "restart" else (T, S)

    def end(scale, key=KEY):
        return np.asarray(step(dataclasses.replace(solver, **{field: scale}), *ends, key)[0])

    none = end(0.0)
    one = end(1.0) - none
    assert np.min(np.abs(one)) > 1e-3
    for scale in (0.5, 2.0):
        agree(end(scale) - none, scale * one)
    np.testing.assert_array_equal(end(0.0, jax.random.key(12)), none)


BOUNDED = {
    "edm_heun": (solvers.EDMHeun(S_churn=4.0), "S_churn"),
    "churn": (solvers.Churn(solvers.DDIM(), S_churn=4.0), "S_churn"),
    "sa_solver": (solvers.SASolver(tau=0.8), "tau"),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("name", BOUNDED)
def test_noise_only_between_s_min_and_s_max(name):
    solver, knob = BOUNDED[name]
    level = float(jnp.exp(-0.5 * VP.log_snr(jnp.asarray(T))))
    noisy, none = (step(one)[0] for one in (solver, dataclasses.replace(solver, **{knob: 0.0})))
    assert np.min(np.abs(noisy - none)) > 1e-3
    within = ((0.99 * level, 1.01 * level), (0.0, 1.01 * level), (0.99 * level, np.inf))
    outside = ((0.0, 0.99 * level), (1.01 * level, np.inf), (0.5 * level, 0.9 * level), (1.1 * level, 2 * level))
    for bounds, expected in [(b, noisy) for b in within] + [(b, none) for b in outside]:
        low, high = bounds
        ours = step(dataclasses.replace(solver, S_min=low, S_max=high))[0]
        np.testing.assert_array_equal(ours, expected, err_msg=f"{bounds}, σ/α = {level}")


@pytest.mark.few(2)
@pytest.mark.parametrize("v", [0.0, 0.25, 0.5, 1.0])
def test_ancestral_interpolates_the_logarithm_of_the_variance(v):
    alpha, sigma, sigma_t, scale, std, _ = hand()
    beta = std**2
    variance = (beta * (sigma / sigma_t) ** 2) ** (1 - v) * beta**v
    mean = alpha * beta / sigma_t**2 * answers()[0] + scale * (sigma / sigma_t) ** 2 * X
    agree(step(solvers.Ancestral(v))[0], mean + np.sqrt(variance) * jax.random.normal(KEY, X.shape))


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0])
def test_ddim_between_deterministic_and_ancestral(eta):
    """Written out, for DDIM itself and for AncestralSteps, which adds noise after a shorter step of it."""
    alpha, sigma, sigma_t, _, std, _ = hand()
    variance = (eta * sigma * std / sigma_t) ** 2
    x0, eps = answers()
    mean = alpha * x0 + np.sqrt(sigma**2 - variance) * eps
    for solver, key in (
        (solvers.DDIM(eta), KEY),
        (solvers.AncestralSteps(solvers.DDIM(), eta), jax.random.fold_in(KEY, 0)),
    ):
        agree(step(solver)[0], mean + np.sqrt(variance) * jax.random.normal(key, X.shape))


MULTISTEP_SDES = {
    "2m": lambda eta: solvers.DPMSolverPP2MSDE(eta),
    "3m": lambda eta: solvers.DPMSolverPP3MSDE(eta),
    "sa": lambda eta: solvers.SASolver(np.sqrt(eta)),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("name", MULTISTEP_SDES)
def test_variance_of_the_noise_of_the_multistep_sdes(name):
    """The variance is σ_s² (1 − e^{−2ηh}), with η = τ² in SA-Solver: the noise at η = 0.3 and 2 against η = 1."""
    h = hand()[-1]

    def noise(eta):
        solver = MULTISTEP_SDES[name](eta)
        return np.asarray(step(solver)[0] - step(solver, key=jax.random.key(12))[0])

    for eta in (0.3, 2.0):
        agree(noise(eta), np.sqrt(np.expm1(-2 * eta * h) / np.expm1(-2 * h)) * noise(1.0))


LAST = {"correct_last": True, "lower_order_below": 0}


@pytest.mark.few(2)
@pytest.mark.parametrize(("variant", "predicts"), [("bh2", "x0"), ("bh1", "x0"), ("bh2", "eps")])
def test_the_last_step_of_unipc_corrected_by_hand(variant, predicts):
    """A solve of one step. With bh2 it is the trapezoidal rule; without correct_last it is the predictor, DDIM."""
    alpha, sigma, _, _, _, h = hand()
    solver = solvers.UniPC(2, variant, predicts)
    carry = solver.init(jnp.asarray(X), 1)
    plain, _, evaluations = step(solver, carry=carry)
    agree(plain, step(solvers.DDIM())[0])
    place = ("x0", "eps").index(predicts)
    change = answers(plain, S)[place] - answers()[place]
    gain = {"x0": -alpha * np.expm1(-h), "eps": -sigma * np.expm1(h)}[predicts] if variant == "bh2" else alpha * h
    ours, _, more = step(solvers.UniPC(2, variant, predicts, **LAST), carry=carry)
    agree(ours, plain + 0.5 * gain * change)
    assert (evaluations, more) == (1, 2)


def walk(solver, times, num_steps):
    """[(x, carry, evaluations)] after each step."""
    states = [(jnp.asarray(X), solver.init(jnp.asarray(X), num_steps), 0)]
    for t, s in itertools.pairwise(times):
        states.append(step(solver, t, s, x=states[-1][0], carry=states[-1][1]))
    return states[1:]


def test_unipc_corrects_its_last_step_as_the_next_one_would():
    """The steps before are the same. The next step of a longer solve is σ_u/σ_s times the correction away from one without."""
    times = (0.9, 0.75, 0.6, 0.45)
    plain = solvers.UniPC(2, lower_order_below=0)
    ours, expected = (walk(solver, times, 3) for solver in (solvers.UniPC(2, **LAST), plain))
    for one, other in zip(ours[:-1], expected[:-1], strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    assert [int(state[2]) for state in ours] == [1, 1, 2]
    x, (past, order, _), _ = expected[-1]
    nothing_to_correct = past, order, -jnp.ones(())
    ends = [step(plain, 0.45, 0.3, x=x, carry=carry)[0] for carry in (expected[-1][1], nothing_to_correct)]
    _, sigma, sigma_t, *_ = hand(0.45, 0.3)
    change = (ends[0] - ends[1]) * sigma_t / sigma
    assert np.min(np.abs(change)) > 1e-7
    agree(ours[-1][0], x + change)


MULTISTEP = {
    "2m": solvers.DPMSolverPP2M(lower_order_below=0),
    "2m_sde": solvers.DPMSolverPP2MSDE(0.5),
    "sa": solvers.SASolver(0.5),
    "unipc": solvers.UniPC(2, lower_order_below=0),
    "ipndm": solvers.IPNDM(),
}


@pytest.mark.parametrize("name", MULTISTEP)
def test_after_a_restart_a_multistep_solver_starts_afresh(name):
    """The way down, up and down again is the solver by itself on each of the two, with noise between."""
    first, second, scale = (0.9, 0.75, 0.6, 0.45), (0.8, 0.7, 0.6, 0.5), 1.5
    ours = walk(solvers.Restart(MULTISTEP[name], scale), first + second, 7)
    x = walk(MULTISTEP[name], first, 7)[-1][0]
    agree(ours[2][0], x)
    _, _, _, up, std, _ = hand(second[0], first[-1])
    x = up * x + scale * std * jax.random.normal(KEY, X.shape)
    agree(ours[3][0], x)
    assert not np.any(ours[3][2])
    carry = MULTISTEP[name].init(x, 7)
    for state, t, s in zip(ours[4:], second[:-1], second[1:], strict=True):
        x, carry, _ = step(MULTISTEP[name], t, s, x=x, carry=carry)
        agree(state[0], x)
