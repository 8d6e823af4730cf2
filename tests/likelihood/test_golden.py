"""Agreement with other people's likelihoods on analytic mixtures. The file's `__source__` names the peer.

The exact trace is compared tightly with the closed form. p at t_min is known. At t_max, p is not
quite the prior, by a factor that is known too. The peers are compared within their own error. Their
integrator is run again here, with their tolerance, on the exact velocity in float64, and its error
is the tolerance of the comparison.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from score_sde.denoising.dynamics import velocity
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.likelihood import ExactTrace, GivenProbes, LogProb, bits_per_dim
from score_sde.sdes import EDM, VE, VP, SubVP
from score_sde.solvers.adaptive_ode import Adaptive
from tests.ground_truth import Mixture
from tests.likelihood.several import Several

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "likelihood" / "pf_ode.npz")
SDES = {"vp": VP(0.1, 20.0), "subvp": SubVP(0.1, 20.0), "ve": VE(0.01, 50.0), "kd": EDM(80.0)}
KINDS = ("Rademacher", "Gaussian")
FLOAT32 = 1e-3  # nats: the 2021 code evaluates its network in float32, where √(1 − e^−β) is off by 3 % at t = 1e-5


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def problem(mixture, sde):
    """(denoise, x, the mixture in numpy)."""
    weights, means, stds = (GOLDEN[f"{mixture}_mix_{name}"] for name in ("w", "mu", "sd"))
    denoise = GaussianMixture(*map(jnp.asarray, (weights, means, stds))).denoise(SDES[sde])
    return denoise, jnp.asarray(GOLDEN[f"{mixture}/x"], jnp.float64), Mixture(weights / weights.sum(), means, stds)


@functools.cache
def solve(mixture, sde, *probes, t_min=1e-5):
    """Rows of per_probe: the exact trace, then each of the recorded probes."""
    denoise, x, _ = problem(mixture, sde)
    given = GivenProbes(jnp.asarray(np.stack([GOLDEN[name] for name in probes], axis=1), jnp.float64))
    adaptive = Adaptive(rtol=1e-9, atol=1e-9, method="dopri8")
    log_prob = LogProb(adaptive=adaptive, t_min=t_min, divergence=Several((ExactTrace(), given)))
    return jax.tree.map(np.asarray, log_prob(jax.random.key(0), denoise, x))


def of_2021(mixture, sde):
    return solve(mixture, sde, *(f"{mixture}/{sde}_{kind}/probe" for kind in KINDS))


@functools.cache
def peer_flow(mixture, sde):
    """(t, x, probe) -> (velocity, its product with the probe), compiled once for all runs of a peer's integrator."""
    denoise, _, _ = problem(mixture, sde)

    def flow(t, x, probe):
        def of_x(x):
            return velocity(SDES[sde], denoise(x, t), t)

        value, product = jax.jvp(of_x, (x,), (probe,))
        return value, jnp.sum(probe * product, axis=1)

    return jax.jit(flow)


def replayed(mixture, sde, probe, tolerance, t_min=1e-5):
    """(log-density, latent) of the peers' way: one RK45 for the whole batch, with one tolerance."""
    _, x, _ = problem(mixture, sde)
    flow, probe = peer_flow(mixture, sde), jnp.asarray(GOLDEN[probe], jnp.float64)

    def right_hand_side(t, state):
        return np.concatenate([np.ravel(part) for part in flow(t, state[: x.size].reshape(x.shape), probe)])

    start, times = np.concatenate([np.ravel(x), np.zeros(len(x))]), (t_min, SDES[sde].t_max)
    end = solve_ivp(right_hand_side, times, start, rtol=tolerance, atol=tolerance, method="RK45").y[:, -1]
    latent = end[: x.size].reshape(x.shape)
    return np.asarray(SDES[sde].prior_log_prob(jnp.asarray(latent))) + end[x.size :], latent


MIXTURES = [(mixture, sde) for mixture in ("m2", "m64") for sde in ("vp", "subvp", "ve")]


@pytest.mark.few(2)
@pytest.mark.parametrize(("mixture", "sde"), MIXTURES)
def test_the_exact_trace_is_the_closed_form(mixture, sde):
    """To 1e-7 nats; a DOP853 at 1e-10, where there is one, is itself off by 1e-6."""
    ours = of_2021(mixture, sde)
    _, _, exact = problem(mixture, sde)
    alpha, sigma = (float(value) for value in SDES[sde].marginal(jnp.asarray(1.0)))
    beyond_the_prior = exact.log_prob(ours.latent, alpha, sigma) - np.asarray(
        SDES[sde].prior_log_prob(jnp.asarray(ours.latent))
    )
    closed_form = GOLDEN[f"{mixture}/{sde}/exact_logp_eps"]
    np.testing.assert_allclose(ours.per_probe[0] + beyond_the_prior, closed_form, rtol=0, atol=1e-7)
    if f"{mixture}/{sde}/ref_logp" in GOLDEN:
        np.testing.assert_allclose(ours.per_probe[0], GOLDEN[f"{mixture}/{sde}/ref_logp"], rtol=0, atol=2e-6)
        np.testing.assert_allclose(ours.latent, GOLDEN[f"{mixture}/{sde}/ref_z"], rtol=0, atol=2e-5)


@pytest.mark.few(2)
@pytest.mark.parametrize(("mixture", "sde"), MIXTURES)
def test_score_sde(mixture, sde):
    """With the recorded probes, at a tolerance of 1e-5 and of 1e-3."""
    ours = of_2021(mixture, sde)
    d = ours.latent.shape[1]
    for row, kind, tolerance, run in (
        (1, KINDS[0], 1e-5, ""),
        (2, KINDS[1], 1e-5, ""),
        (1, KINDS[0], 1e-3, "_tol0.001"),
    ):
        values, case = ours.per_probe[row], f"{mixture}/{sde}_{kind}"
        log_prob, latent = replayed(mixture, sde, f"{case}/probe", tolerance)
        own = np.abs(log_prob - values).max()
        bpd = GOLDEN[f"{case}{run}/bpd"].astype(np.float64)
        np.testing.assert_allclose(values, (7 - bpd) * d * np.log(2), rtol=0, atol=3 * own + FLOAT32)
        ours_in_bits = bits_per_dim(values, d, 2 / 256)  # its bins: offset 7
        np.testing.assert_allclose(ours_in_bits, bpd, rtol=0, atol=(3 * own + FLOAT32) / (d * np.log(2)) + 1e-6)
        theirs, own = GOLDEN[f"{case}{run}/z"], np.abs(latent - ours.latent).max()
        np.testing.assert_allclose(ours.latent, theirs, rtol=0, atol=3 * own + 1e-4 * np.abs(theirs).max())


@pytest.mark.few(1)
@pytest.mark.parametrize("mixture", ["m2", "m64"])
def test_k_diffusion(mixture):
    """Its Dormand–Prince in float64, at a tolerance of 1e-6."""
    probe = f"{mixture}/kd/probe"
    ours = solve(mixture, "kd", probe, t_min=0.002)
    own = np.abs(replayed(mixture, "kd", probe, 1e-6, t_min=0.002)[0] - ours.per_probe[1]).max()
    np.testing.assert_allclose(ours.per_probe[1], GOLDEN[f"{mixture}/kd/log_likelihood"], rtol=0, atol=3 * own)
