"""The 2021 code's predictors and correctors, step by step from its own states and with its own noise.

Its VP and VE predictors take β_i and σ_i from tables of N levels. Here those levels are the times of a `DiscreteVP` and of
`EDM` (σ = t), and the general rule, with the exact transition between them, must be the paper's. Where its score is
continuous ("cont"), it is taken at another time than the table's; `Borrowed` does the same.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.denoising import dynamics
from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE
from tests.solvers import replay

ARRAYS, META = replay.load("score_sde.npz")
N = 35
BETAS = np.linspace(0.1 / N, 20 / N, N)
SIGMAS = np.exp(np.linspace(np.log(0.01), np.log(50.0), N))
SNR = META["params"]["snr"]


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


VP, SUB_VP, VE = sdes.VP(0.1, 20.0), sdes.SubVP(0.1, 20.0), sdes.VE(0.01, 50.0)


@pytree
class Borrowed(Denoise):
    """The score of p_time under `source`, as an estimate at whatever time of `sde` it is asked for."""

    denoise: object
    source: SDE
    time: float
    sde: SDE

    def __call__(self, x, t):
        gradient = dynamics.score(self.source, self.denoise(x, self.time), self.time)
        sigma = self.sde.sigma(t)
        eps = -sigma * gradient
        return Estimate((x - sigma * eps) / self.sde.alpha(t), eps)


def peer_times(name):
    return np.linspace(1.0, 1e-5 if name.startswith("ve") else 1e-3, N)


def continuous(source, sde, time):
    return Borrowed(replay.mixture(ARRAYS).denoise(source), source, time, sde)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())


def predict(name, place):
    """Checks every predictor step: `place(i)` gives (solver, denoise, t, s) of step i."""
    draws, start = ARRAYS[f"{name}/noise"], "corr_x" if f"{name}/corr_x" in ARRAYS else "pred_x"
    each = len(draws) // N
    for i in range(N):
        before = ARRAYS[f"{name}/corr_x"][i] if each == 2 else ARRAYS[f"{name}/pred_x"][i - 1]
        before = ARRAYS[f"{name}/x_T"] if start == "pred_x" and i == 0 else before
        solver, denoise, t, s = place(i)
        args = solver, denoise, jnp.asarray(before), jnp.asarray(t), jnp.asarray(s), ()
        close(replay.step(*args, [draws[each * i + each - 1]])[0], ARRAYS[f"{name}/pred_x"][i])
        close(replay.step(*args, [np.zeros_like(before)])[0], ARRAYS[f"{name}/pred_mean"][i])


@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_euler_maruyama(name):
    sde = {"vp": VP, "subvp": SUB_VP, "ve": VE}[name]
    denoise = replay.mixture(ARRAYS).denoise(sde)
    times = peer_times(name)
    # The 2021 code steps by 1/N whatever the distance to its next time.
    predict(
        f"{name}_euler_maruyama_none_cont",
        lambda i: (solvers.EulerMaruyama(), denoise, times[i], times[i] - 1 / N),
    )


VP_RULES = {"reverse_diffusion": solvers.ReverseDiffusion(), "ancestral_sampling": solvers.Ancestral(v=1.0)}


@pytest.mark.few(2)
@pytest.mark.parametrize("rule", VP_RULES)
@pytest.mark.parametrize("kind", ["disc", "cont"])
def test_vp_predictors(rule, kind):
    sde = sdes.DiscreteVP.from_betas(BETAS)
    exact = replay.mixture(ARRAYS).denoise(sde)

    def place(i):
        time = peer_times("vp")[i]
        level = int(time * (N - 1))  # of the table, truncated as there
        denoise = exact if kind == "disc" else continuous(VP, sde, time)
        return VP_RULES[rule], denoise, (level + 1) / N, level / N

    predict(f"vp_{rule}_none_{kind}", place)


@pytest.mark.parametrize(
    ("rule", "corrector"),
    [("reverse_diffusion", "none"), ("ancestral_sampling", "none"), ("ancestral_sampling", "langevin")],
)
def test_ve_predictors(rule, corrector):
    sde = sdes.EDM(sigma_max=51.0)
    solver = {"reverse_diffusion": solvers.ReverseDiffusion(), "ancestral_sampling": solvers.Ancestral()}[rule]
    denoise = replay.mixture(ARRAYS).denoise(sde)
    levels = np.append(SIGMAS[::-1], 0.0)  # the level below the last is 0
    predict(f"ve_{rule}_{corrector}_disc", lambda i: (solver, denoise, levels[i], levels[i + 1]))


def test_annealed_langevin():
    """ε = 2 α (snr σ)², with σ at the time of the score and α = 1 − β_i of the table (1 for VE)."""
    for name, sde in (("vp", VP), ("ve", VE)):
        case = f"{name}_reverse_diffusion_ald_cont"
        denoise = replay.mixture(ARRAYS).denoise(sde)
        for i, time in enumerate(peer_times(name)):
            before = ARRAYS[f"{case}/x_T"] if i == 0 else ARRAYS[f"{case}/pred_x"][i - 1]
            earlier = 0.5 * time
            if name == "vp":  # the time from which the transition's α is 1 − β_i
                log_alpha = float(sde.log_alpha(time)) - 0.5 * np.log1p(-BETAS[int(time * (N - 1))])
                earlier = float(sde.time_of_log_snr(-np.log(np.expm1(-2 * log_alpha)))) if log_alpha < 0 else None
            if earlier is None:
                continue
            args = denoise, jnp.asarray(before), jnp.asarray(time), jnp.asarray(earlier), ()
            step = replay.step(solvers.AnnealedLangevin(SNR), *args, [ARRAYS[f"{case}/noise"][2 * i]])[0]
            close(step, ARRAYS[f"{case}/corr_x"][i])


def step_sizes(name, score_of):
    """Of every step of the peer, ε from its states, and 2 α (snr ‖z‖/‖g‖)² with norms of images and with their means."""
    rows = []
    for i in range(N):
        before = ARRAYS[f"{name}/x_T"] if i == 0 else ARRAYS[f"{name}/pred_x"][i - 1]
        gradient, alpha = score_of(i, before)
        taken = (ARRAYS[f"{name}/corr_mean"][i] - before) / gradient
        norms = [np.linalg.norm(v, axis=1) for v in (ARRAYS[f"{name}/noise"][2 * i], gradient)]
        rows.append(
            (
                taken,
                2 * alpha * (SNR * norms[0].mean() / norms[1].mean()) ** 2,
                2 * alpha * (SNR * norms[0] / norms[1]) ** 2,
            )
        )
    return rows


def test_langevin_is_the_peers_but_for_the_mean_over_the_batch():
    """The peer's ε is one for the batch, from mean norms; ours has the image's own norms, so neighbours do not matter."""
    case, sde = "vp_reverse_diffusion_langevin_disc", sdes.DiscreteVP.from_betas(BETAS)
    denoise = replay.mixture(ARRAYS).denoise(sde)

    @jax.jit
    def score(x, t):
        return dynamics.score(sde, denoise(x, t), t)

    def score_of(i, x):
        t = (N - i) / N
        return np.asarray(score(jnp.asarray(x), t)), 1 - BETAS[N - 1 - i]

    solver = solvers.Langevin(SNR, max_ratio=1e9)
    for i, (taken, of_batch, of_images) in enumerate(step_sizes(case, score_of)):
        np.testing.assert_allclose(taken, of_batch, rtol=1e-7)
        before = ARRAYS[f"{case}/x_T"] if i == 0 else ARRAYS[f"{case}/pred_x"][i - 1]
        z = ARRAYS[f"{case}/noise"][2 * i]
        gradient, _ = score_of(i, before)
        args = solver, denoise, jnp.asarray(before), jnp.asarray((N - i) / N), jnp.asarray((N - i - 1) / N), ()
        ours = replay.step(*args, [z])[0]
        close(ours, before + of_images[:, None] * gradient + np.sqrt(2 * of_images[:, None]) * z)
