"""log p against closed forms, for every SDE and divergence; an image's independence of its batch; errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.internal.pytree import pytree, static
from score_sde.likelihood import ExactTrace, GivenProbes, Hutchinson, LogProb, density
from score_sde.sdes import EDM, SDE, VP, Flow
from score_sde.solvers.adaptive_ode import Adaptive
from tests.conformance import SDES
from tests.ground_truth import Mixture
from tests.likelihood.several import Several

T_MIN = 1e-3
MIXTURE = Mixture(np.array([0.3, 0.7]), np.array([[0.6, -0.4], [-0.5, 0.3]]), np.array([[0.35, 0.5], [0.2, 0.6]]))
POINTS = np.array([[0.6, -0.4], [0.0, 0.0], [-0.9, 0.9], [1.2, -0.8], [-0.4, -0.2], [0.3, 1.5]])
KEY = jax.random.key(7)
NUMBER = 64
MEMBERS = Several((ExactTrace(), Hutchinson(NUMBER, "rademacher"), Hutchinson(NUMBER, "gaussian")))


def exact(mixture):
    """The mixture as the package's own, in the default precision."""
    return GaussianMixture(*(jnp.asarray(part, jnp.result_type(float)) for part in mixture))


def x_of(points):
    return jnp.asarray(points, jnp.result_type(float))


def marginal(mixture, sde, x, t):
    """log p_t(x) by the closed form, with α and σ of the SDE at t."""
    alpha, sigma = (float(f(jnp.asarray(t, jnp.result_type(float)))) for f in (sde.alpha, sde.sigma))
    return mixture.log_prob(np.asarray(x, np.float64), alpha, sigma)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", SDES)
def test_every_sde_and_divergence_reaches_the_exact_log_density(name):
    sde = SDES[name]
    t_min = max(T_MIN, 1e-5 * float(sde.t_max))
    ours = LogProb(t_min=t_min, divergence=MEMBERS)(KEY, exact(MIXTURE).denoise(sde), x_of(POINTS))
    # The prior stands for p(x at t_max); with the exact one in its place, the change of variables is exact.
    mismatch = marginal(MIXTURE, sde, ours.latent, sde.t_max) - np.asarray(sde.prior_log_prob(ours.latent))
    assert np.abs(mismatch).max() < 0.03
    truth = marginal(MIXTURE, sde, POINTS, t_min) - mismatch
    tolerance = 0.03 if name in ("ddpm", "iddpm") else 2e-3  # a table of log α has kinks
    values = np.asarray(ours.per_probe)
    np.testing.assert_allclose(values[0], truth, atol=tolerance)
    for kind, largest in ((values[1 : 1 + NUMBER], 0.2), (values[1 + NUMBER :], 1.5)):
        error = kind.std(axis=0, ddof=1) / np.sqrt(NUMBER)
        assert np.median(error) < largest
        assert np.all(np.abs(kind.mean(axis=0) - truth) < 4.5 * error + tolerance)
    np.testing.assert_allclose(ours.log_prob, values.mean(axis=0), rtol=1e-5)


def test_prior_std_is_alpha_sigma_not_sigma_squared():
    """A 4-d Gaussian: the prior of a peer (swirl-dynamics), with std σ·σ for α·σ, is off by 4 ln σ_max = 17 nats."""
    sde, std = EDM(80.0), 0.5
    gaussian = Mixture(np.ones(1), np.zeros((1, 4)), np.full((1, 4), std))
    x = x_of([[0.3, -0.2, 0.6, 0.1]])
    ours = LogProb(t_min=0.002, divergence=ExactTrace())(KEY, exact(gaussian).denoise(sde), x)
    truth = gaussian.log_prob(np.asarray(x))
    np.testing.assert_allclose(ours.log_prob, truth, atol=2e-3)
    wide, latent = 80.0**2, np.asarray(ours.latent, np.float64)
    peer_prior = -0.5 * np.sum((latent / wide) ** 2, axis=1) - 4 * np.log(wide * np.sqrt(2 * np.pi))
    peer = np.asarray(ours.log_prob) - np.asarray(sde.prior_log_prob(ours.latent)) + peer_prior
    assert np.all(peer < truth - 15)


def test_the_mode_of_a_gaussian_where_the_flow_does_not_move():
    """x stays at 0, so that only the log-density itself can tell the solver to make its steps short."""
    sde, std, x = EDM(80.0), np.geomspace(0.01, 2.0, 4), np.zeros((1, 4))
    gaussian = Mixture(np.ones(1), np.zeros((1, 4)), std[None])
    ours = LogProb(t_min=0.002, divergence=ExactTrace())(KEY, exact(gaussian).denoise(sde), x_of(x))
    np.testing.assert_array_equal(ours.latent, 0)
    np.testing.assert_allclose(ours.log_prob, marginal(gaussian, sde, x, 0.002), atol=5e-3)


def test_float64_agrees_with_float32():
    def solve():
        return LogProb(t_min=T_MIN, divergence=MEMBERS)(KEY, exact(MIXTURE).denoise(VP()), x_of(POINTS))

    single = solve()
    with jax.enable_x64(True):
        double = solve()
        assert double.log_prob.dtype == jnp.float64
    np.testing.assert_allclose(single.per_probe[0], np.asarray(double.per_probe[0]), atol=3e-3)
    np.testing.assert_allclose(single.latent, np.asarray(double.latent), atol=3e-4)


@pytree
class Counted(Denoise):
    """An exact denoiser that counts how often it is traced."""

    sde: SDE
    traced: list = static()

    def __call__(self, x, t):
        self.traced.append(1)
        return exact(MIXTURE).denoise(self.sde)(x, t)


class Traced(list):
    """A list that is compared by identity."""

    __hash__, __eq__ = object.__hash__, object.__eq__


def test_new_tolerances_times_and_schedules_compile_nothing():
    traced, x = Traced(), x_of(POINTS)
    LogProb(Adaptive(1e-3, 1e-3), 1e-3, Hutchinson(2))(KEY, Counted(VP(), traced), x)
    before, programs = len(traced), density._solve._cache_size()
    assert before <= 4  # each trace is a place in the program where the network is compiled
    other = Counted(VP(beta_max=15.0), traced)
    LogProb(Adaptive(1e-4, 1e-5), 1e-2, Hutchinson(2))(jax.random.key(1), other, x + 0.1)
    assert (len(traced), density._solve._cache_size()) == (before, programs)


def test_an_image_alone_and_in_a_batch():
    log_prob, sde = LogProb(t_min=T_MIN, divergence=MEMBERS), VP()
    denoise = exact(MIXTURE).denoise(sde)
    together = log_prob(KEY, denoise, x_of(POINTS), index=jnp.arange(10, 16))
    order = np.array([4, 1, 5, 0, 2, 3])
    shuffled = log_prob(KEY, denoise, x_of(POINTS[order]), index=10 + jnp.asarray(order))
    alone = log_prob(KEY, denoise, x_of(POINTS[4:5]), index=jnp.array([14]))
    for one, row in ((shuffled, 0), (alone, 0)):
        np.testing.assert_allclose(one.per_probe[:, row], together.per_probe[:, 4], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(one.latent[row], together.latent[4], rtol=1e-5, atol=1e-5)
        assert one.nfe[row] == together.nfe[4]
    elsewhere = log_prob(KEY, denoise, x_of(POINTS))
    assert np.abs(elsewhere.per_probe - together.per_probe).max() > 0.01  # another index, other probes
    assert len(set(np.asarray(together.nfe))) > 1


def test_within_jit_with_a_traced_condition():
    """The field closes over arrays of the caller's program, one of them with a batch axis."""
    sde, x, shift = Flow(), x_of(POINTS), x_of(0.1 * POINTS)
    log_prob = LogProb(t_min=T_MIN, divergence=ExactTrace())

    @jax.jit
    def shifted(shift, x):
        inner = exact(MIXTURE).denoise(sde)

        def denoise(x, t):
            estimate = inner(x - sde.alpha(t)[:, None] * shift, t)
            return Estimate(estimate.x0 + shift, estimate.eps)

        return log_prob(KEY, FunctionDenoiser(sde, denoise), x).log_prob

    # x0 = y + shift with y ~ MIXTURE; at t_min x_t = α shift + y_t.
    moved = MIXTURE.log_prob(POINTS + T_MIN * 0.1 * POINTS, 1 - T_MIN, T_MIN)
    np.testing.assert_allclose(shifted(shift, x + shift), moved, atol=2e-3)


@pytest.mark.parametrize("t_min", [0.0, -1.0, 1.0, 2.0, float("nan")])
def test_t_min_out_of_range(t_min):
    with pytest.raises(
        ValueError, match=r"LogProb needs 0 < t_min < t_max=1.0 of VP, got t_min=.*t_min is a time of the SDE"
    ):
        LogProb(t_min=t_min)(KEY, exact(MIXTURE).denoise(VP()), x_of(POINTS))


def test_x_without_a_batch_axis():
    with pytest.raises(ValueError, match=r"LogProb needs x \[b, \*shape of one example\], got the shape \(2,\)"):
        LogProb()(KEY, exact(MIXTURE).denoise(VP()), x_of(POINTS[0]))


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32])
def test_whole_numbers(dtype):
    match = (
        f"LogProb needs x of floating point, got {jnp.dtype(dtype)}; scale levels .* k ↦ 2 k/255 − 1.* use example_bits"
    )
    with pytest.raises(ValueError, match=match):
        LogProb()(KEY, exact(MIXTURE).denoise(VP()), jnp.zeros((6, 2), dtype))


def test_given_probes_of_another_shape():
    log_prob = LogProb(divergence=GivenProbes(jnp.ones((3, 1, 2))))
    with pytest.raises(ValueError, match=r"GivenProbes needs probes \[b, p, \*shape\] for x \(6, 2\), got \(3, 1, 2\)"):
        log_prob(KEY, exact(MIXTURE).denoise(VP()), x_of(POINTS))
