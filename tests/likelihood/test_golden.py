"""Agreement with other people's likelihoods on analytic mixtures; the file's `__source__` says whose."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.adaptive import Adaptive
from score_sde.analytic import GaussianMixture
from score_sde.likelihood import ExactTrace, GivenProbes, LogProb, bits_per_dim
from score_sde.sdes import EDM, VE, VP, SubVP
from tests.likelihood.several import Several

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "likelihood" / "pf_ode.npz")
SDES = {"vp": VP(0.1, 20.0), "subvp": SubVP(0.1, 20.0), "ve": VE(0.01, 50.0), "kd": EDM(80.0)}


def solve(mixture, sde, *probes, t_min=1e-5):
    """Rows of per_probe: the exact trace, then each of the recorded probes."""
    with jax.enable_x64(True):
        arrays = (jnp.asarray(GOLDEN[f"{mixture}_mix_{name}"]) for name in ("w", "mu", "sd"))
        x = jnp.asarray(GOLDEN[f"{mixture}/x"], jnp.float64)
        given = GivenProbes(jnp.asarray(np.stack([GOLDEN[name] for name in probes], axis=1), jnp.float64))
        log_prob = LogProb(
            adaptive=Adaptive(rtol=1e-8, atol=1e-8, method="dopri8"),
            t_min=t_min,
            divergence=Several((ExactTrace(), given)),
        )
        density = log_prob(jax.random.key(0), GaussianMixture(*arrays).denoise(SDES[sde]), x)
        return jax.tree.map(np.asarray, density)


@pytest.mark.parametrize(
    ("mixture", "sde"),
    [("m2", "vp"), ("m2", "subvp"), ("m2", "ve"), ("m64", "vp"), ("m64", "subvp"), ("m64", "ve")],
)
def test_score_sde(mixture, sde):
    kinds = ("Rademacher", "Gaussian")
    ours = solve(mixture, sde, *(f"{mixture}/{sde}_{kind}/probe" for kind in kinds))
    d = ours.latent.shape[1]
    if f"{mixture}/{sde}/ref_logp" in GOLDEN:
        np.testing.assert_allclose(ours.per_probe[0], GOLDEN[f"{mixture}/{sde}/ref_logp"], atol=1e-5)
        np.testing.assert_allclose(ours.latent, GOLDEN[f"{mixture}/{sde}/ref_z"], atol=1e-5)
    # What separates ∫ div v from the closed form is p(x at t_max) against the prior.
    np.testing.assert_allclose(ours.per_probe[0], GOLDEN[f"{mixture}/{sde}/exact_logp_eps"], atol=1.5e-3 * d)
    for kind, values in zip(kinds, ours.per_probe[1:], strict=True):
        theirs = GOLDEN[f"{mixture}/{sde}_{kind}/bpd"].astype(np.float64)
        # The peer's own error, of RK45 at 1e-5 on a float32 network: 1e-4 nats for each dimension.
        np.testing.assert_allclose(values, (7 - theirs) * d * np.log(2), atol=1e-4 * d)
        np.testing.assert_allclose(bits_per_dim(values, d, 2 / 256), theirs, atol=1.5e-4)  # its bins: offset 7
        latent = GOLDEN[f"{mixture}/{sde}_{kind}/z"]
        np.testing.assert_allclose(ours.latent, latent, atol=1e-4 * np.abs(latent).max())
    # At 1e-3 the peer is off by up to 0.016 nats for each dimension, and by 2 % of the latent: two tolerances of RK45.
    rough = {part: GOLDEN[f"{mixture}/{sde}_Rademacher_tol0.001/{part}"].astype(np.float64) for part in ("bpd", "z")}
    np.testing.assert_allclose(ours.per_probe[1], (7 - rough["bpd"]) * d * np.log(2), atol=0.02 * d)
    np.testing.assert_allclose(ours.latent, rough["z"], atol=0.03 * np.abs(rough["z"]).max())


@pytest.mark.parametrize("mixture", ["m2", "m64"])
def test_k_diffusion(mixture):
    ours = solve(mixture, "kd", f"{mixture}/kd/probe", t_min=0.002)
    np.testing.assert_allclose(ours.per_probe[1], GOLDEN[f"{mixture}/kd/log_likelihood"], atol=5e-5)
