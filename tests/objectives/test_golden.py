"""Losses against other people's code, on the exact mixture and with recorded draws: numbers in tests/golden/loss.

The peers: yang-song/score_sde_pytorch (losses.py), NVlabs/edm (training/loss.py), k-diffusion
(external.VDenoiser).
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising.estimate import Estimate
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.internal.broadcast import expand_like
from score_sde.objectives import (
    DenoisingScoreMatching,
    Discrete,
    EDMWeighting,
    Likelihood,
    LogNormal,
    SigmaSquared,
    Weighting,
)
from score_sde.objectives.weightings import squared_error
from score_sde.sdes import EDM, VE, VP, DiscreteVP, SubVP

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "loss"
pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def load(name):
    pack = np.load(GOLDEN / f"{name}.npz")
    shape = pack["x0"].shape[1:]
    weights, means, stds = (jnp.asarray(pack[f"mix_{part}"]) for part in ("w", "mu", "sd"))
    mixture = GaussianMixture(weights / weights.sum(), means.reshape(-1, *shape), stds.reshape(-1, *shape))
    return pack, mixture


def scaled_score(mixture, sde, factor):
    """The exact score times a factor, as a consistent pair."""

    def denoise(x, t):
        eps = factor * mixture.denoise(sde)(x, t).eps
        return Estimate((x - expand_like(sde.sigma(t), x) * eps) / expand_like(sde.alpha(t), x), eps)

    return denoise


def scaled_x0(mixture, sde, factor):
    """The exact E[x0 | x_t] times a factor, as a consistent pair."""

    def denoise(x, t):
        x0 = factor * mixture.denoise(sde)(x, t).x0
        return Estimate(x0, (x - expand_like(sde.alpha(t), x) * x0) / expand_like(sde.sigma(t), x))

    return denoise


SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE()}
CASES = [
    (f"sde_{sde}_mean{mean}_lw{lw}_{kind}", sde, mean, lw, factor)
    for sde in SDES
    for mean in (0, 1)
    for lw in (0, 1)
    for kind, factor in (("exact", 1.0), ("offset", 0.7))
]


@pytest.mark.few(8)
@pytest.mark.parametrize(("case", "name", "mean", "likelihood", "factor"), CASES, ids=[c[0] for c in CASES])
def test_score_sde_continuous(case, name, mean, likelihood, factor):
    pack, mixture = load("score_sde")
    sde = SDES[name]
    weighting = Likelihood() if likelihood else SigmaSquared()
    objective = DenoisingScoreMatching(sde, weighting, reduce="mean" if mean else "sum")
    t = jnp.asarray(pack[f"{case}/draw0_rand"]) * (1 - 1e-5) + 1e-5
    eps = jnp.asarray(pack[f"{case}/draw1_randn_like"])
    loss, scalars = objective.loss(scaled_score(mixture, sde, factor), jnp.asarray(pack["x0"]), eps, t)
    half = 1.0 if mean else 0.5  # the peer's sum has a factor of 1/2, its mean has none
    np.testing.assert_allclose(half * np.asarray(loss), pack[f"{case}/per_sample"], rtol=2e-7)
    np.testing.assert_allclose(half * np.mean(loss), pack[f"{case}/loss"], rtol=2e-7)
    np.testing.assert_array_equal(scalars["t"], t)


@pytest.mark.parametrize("mean", [0, 1])
def test_score_sde_discrete(mean):
    """DDPM's levels are DiscreteVP's knots; NCSN's are VE's, from t = 0, counted from the largest."""
    pack, mixture = load("score_sde")
    x0, reduce, half = jnp.asarray(pack["x0"]), "mean" if mean else "sum", 1.0 if mean else 0.5
    ddpm = DiscreteVP.from_betas(np.linspace(0.1 / 1000, 20.0 / 1000, 1000))
    cases = {
        "ddpm": (ddpm, Discrete(1000), lambda label: label),
        "smld": (VE(), Discrete(1000, t_min=0.0), lambda label: 999 - label),
    }
    for name, (sde, levels, index) in cases.items():
        t = levels.times(sde)[index(pack[f"{name}_mean{mean}/draw0_randint"])].astype(jnp.float64)
        objective = DenoisingScoreMatching(sde, SigmaSquared(), levels, reduce=reduce)
        eps = jnp.asarray(pack[f"{name}_mean{mean}/draw1_randn_like"])
        loss, _ = objective.loss(scaled_score(mixture, sde, 0.7), x0, eps, t)
        np.testing.assert_allclose(half * np.asarray(loss), pack[f"{name}_mean{mean}/per_sample"], rtol=1e-5)
        np.testing.assert_allclose(half * np.mean(loss), pack[f"{name}_mean{mean}/loss"], rtol=1e-5)


@pytest.mark.parametrize("kind", ["exact", "offset"])
def test_edm(kind):
    """EDM's own loss, and its VP and VE losses, whose weight 1/σ² on the error of x0 is ours on the error of ε."""
    pack, mixture = load("edm")
    x0, factor = jnp.asarray(pack["x0"]), 1.0 if kind == "exact" else 0.9
    sde = EDM(sigma_max=1000.0)
    for name, weighting in (("edm", EDMWeighting(0.5)), ("vp", SigmaSquared()), ("ve", SigmaSquared())):
        objective = DenoisingScoreMatching(sde, weighting, LogNormal(), reduce="sum")
        sigma, noise = jnp.asarray(pack[f"{name}_{kind}/sigma"]), jnp.asarray(pack[f"{name}_{kind}/n"])
        loss, _ = objective.loss(scaled_x0(mixture, sde, factor), x0, noise, sigma)
        np.testing.assert_allclose(loss, pack[f"{name}_{kind}/per_sample_sum"], rtol=1e-9)
        estimate = scaled_x0(mixture, sde, factor)(x0 + expand_like(sigma, x0) * noise, sigma)
        error = squared_error(sde, estimate, x0, noise, sigma, weighting.error)
        weighted = expand_like(weighting(sde, sigma), x0) * error
        np.testing.assert_allclose(weighted[:2], pack[f"{name}_{kind}/elementwise_first2"], rtol=1e-9, atol=1e-12)


def test_edm_noise_levels():
    """The peer's σ from its own draws: log-normal, uniform t through the VP schedule, and geometric."""
    pack, _ = load("edm")
    vp = VP()
    t = 1 + jnp.asarray(pack["vp_exact/rnd"]) * (1e-5 - 1)
    np.testing.assert_allclose(vp.sigma(t) / vp.alpha(t), pack["vp_exact/sigma"], rtol=1e-9)
    ve = VE(sigma_min=0.02, sigma_max=100.0)
    np.testing.assert_allclose(ve.sigma(jnp.asarray(pack["ve_exact/rnd"])), pack["ve_exact/sigma"], rtol=1e-9)
    log_normal = np.exp(-1.2 + 1.2 * pack["edm_exact/rnd"])
    np.testing.assert_allclose(log_normal, pack["edm_exact/sigma"], rtol=1e-9)


def test_k_diffusion_velocity():
    """k-diffusion's v at noise level σ is v of the variance-preserving process with the same SNR."""
    pack, mixture = load("k_diffusion")
    sigma = jnp.asarray(pack["sigma"])
    sde = EDM(sigma_max=1000.0)
    x0, noise = jnp.asarray(pack["x0"]), jnp.asarray(pack["noise"])

    class PerVPVelocity(Weighting):
        """‖δv‖² with α = 1/√(1 + σ²): the peer's error, (1 + σ²)/σ² ‖δx‖² in the variance-exploding process."""

        error = "x0"

        def __call__(self, sde, t):
            return (1 + t**2) / t**2

    objective = DenoisingScoreMatching(sde, PerVPVelocity(), LogNormal())
    loss, _ = objective.loss(scaled_x0(mixture, sde, 0.9), x0, noise, sigma)
    np.testing.assert_allclose(loss, pack["v_loss"], rtol=1e-9)
    denoised = scaled_x0(mixture, sde, 0.9)(x0 + expand_like(sigma, x0) * noise, sigma).x0
    np.testing.assert_allclose(denoised, pack["v_denoised"], rtol=1e-9, atol=1e-12)
