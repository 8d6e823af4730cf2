"""Every method against the exact posterior of a Gaussian, image by image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.guidance import guide
from score_sde.guidance import inverse as inv
from score_sde.guidance import operators as ops
from score_sde.guidance.inverse import POSTERIORS, RESTORERS
from score_sde.sdes import VP
from score_sde.solvers import DDIM, Ancestral, Heun, Restart, grids, sample
from tests.ground_truth import moment_errors
from tests.guidance.inverse.methods import METHODS, build

MEAN, STD = jnp.asarray([[0.3, -0.2]]), jnp.asarray([[1.0, 0.5]])
PRIOR = GaussianMixture(jnp.ones(1), MEAN, STD)
OPERATOR = ops.Matrix(jnp.asarray([[1.0, 0.8]]))
NOISE_STD, Y, NUMBER, KEY = 0.3, 0.9, 4096, jax.random.key(0)
GRID = grids.LogSNRUniform(100, end=1e-3, to_zero=True)


def posterior(mean=MEAN, std=STD, noise_std=NOISE_STD):
    """(mean, covariance) given y."""
    prior, a = np.diag(np.asarray(std[0], np.float64) ** 2), np.asarray(OPERATOR.matrix, np.float64)
    gain = prior @ a.T / (a @ prior @ a.T + noise_std**2)
    centre = np.asarray(mean[0], np.float64)
    return centre + gain @ (Y - a @ centre), prior - gain @ a @ prior


def draw(name, noise_std=NOISE_STD, prior=PRIOR):
    y = jnp.full((NUMBER, 1), Y)
    denoise, solver = build(name, prior.denoise(VP()), OPERATOR, noise_std, y)
    return np.asarray(sample(KEY, denoise, solver, GRID, (NUMBER, 2)).x, np.float64)


def test_every_method_is_in_the_list():
    built = [part for make in METHODS.values() for part in make(OPERATOR, NOISE_STD)]
    particles = {inv.TDS}  # of another shape: below
    assert {*POSTERIORS.values(), *RESTORERS.values()} <= particles | {type(part) for part in built}


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["mmps", "mmps_stochastic", "tmpd"])
def test_exact_on_a_gaussian(name):
    """The rest is the solvers' error, which is of first order: at most 4 % of the spread with 100 steps."""
    errors = moment_errors(draw(name), *posterior(), allowance=0.04)
    assert max(errors) < 5, errors


def test_pigdm_is_exact_for_data_of_its_spread():
    """N(μ, σ_d² I), with the right σ_d, and not with another."""
    std = jnp.full((1, 2), 0.5)
    denoise = GaussianMixture(jnp.ones(1), MEAN, std).denoise(VP())

    def errors(data_std):
        guided = guide(denoise, (inv.PiGDM(OPERATOR, NOISE_STD, data_std),), {"y": jnp.full((NUMBER, 1), Y)})
        x = sample(KEY, guided, Heun(), GRID, (NUMBER, 2)).x
        return max(moment_errors(x, *posterior(std=std), allowance=0.01))

    assert errors(0.5) < 5
    assert errors(1.0) > 8


MIXTURE = GaussianMixture(
    jnp.asarray([0.4, 0.6]), jnp.asarray([[-0.8, 0.4], [0.9, -0.3]]), jnp.asarray([[0.3, 0.5], [0.4, 0.3]])
)


def mixture_posterior(noise_std=NOISE_STD):
    """(mean, covariance) given y, in closed form: a mixture of the posteriors of the components, reweighed by p(y)."""
    weights, parts = [], []
    for weight, mean, std in zip(MIXTURE.weights, MIXTURE.means, MIXTURE.stds, strict=True):
        parts.append(posterior(mean[None], std[None], noise_std))
        a, prior = np.asarray(OPERATOR.matrix), np.diag(np.asarray(std) ** 2)
        variance = float((a @ prior @ a.T)[0, 0]) + noise_std**2
        error = Y - float((a @ np.asarray(mean))[0])
        weights.append(float(weight) * np.exp(-0.5 * error**2 / variance) / np.sqrt(variance))
    weights = np.asarray(weights) / np.sum(weights)
    means = np.stack([mean for mean, _ in parts])
    mean = weights @ means
    between = np.einsum("k,ki,kj->ij", weights, means - mean, means - mean)
    return mean, between + np.einsum("k,kij->ij", weights, np.stack([covariance for _, covariance in parts]))


def test_twisted_particles_are_exact_on_a_mixture():
    """Where every other method is biased, MMPS among them; the particles of an image are drawn from each other: one counts."""
    images, particles = 512, 16
    y = jnp.full((images, 1), Y)
    denoise = guide(MIXTURE.denoise(VP()), (inv.Measured(OPERATOR, NOISE_STD),), {"y": y})
    grid = grids.LogSNRUniform(60, end=1e-3, to_zero=True)
    solved = sample(KEY, denoise, inv.TDS(), grid, (images, particles, 2))
    assert solved.nfe[0] == 60 * particles
    exact = mixture_posterior()
    errors = moment_errors(solved.x[:, 0], *exact, allowance=0.04)
    assert max(errors) < 5, errors
    biased = moment_errors(draw("mmps", prior=MIXTURE), *exact, allowance=0.04)
    assert max(biased) > 5, biased


def test_twisted_particles_of_an_image_by_themselves():
    y = jnp.asarray([[0.9], [-1.0], [0.3]])
    grid = grids.LogSNRUniform(6, end=0.01, to_zero=True)

    def solve(y):
        denoise = guide(MIXTURE.denoise(VP()), (inv.Measured(OPERATOR, NOISE_STD),), {"y": y})
        return sample(KEY, denoise, inv.TDS(), grid, (len(y), 8, 2)).x

    together = solve(y)
    np.testing.assert_allclose(together[0], solve(y[:1])[0], rtol=1e-4, atol=1e-5)
    assert len(np.unique(together[0, :, 0])) > 1


def itself(x, t):
    return Estimate(x, jnp.zeros_like(x))


def test_each_twisted_particle_is_a_draw_by_the_weights():
    """Two particles, 0 and 1, of weights 0.6 and 0.4: the first place holds each as often, not always the likelier one."""
    images, noise_std = 4000, float(1 / np.sqrt(2 * np.log(1.5)))
    x, y = jnp.tile(jnp.asarray([[[0.0], [1.0]]]), (images, 1, 1)), jnp.zeros((images, 1))
    denoise = guide(FunctionDenoiser(VP(), itself), (inv.Measured(ops.Mask(jnp.ones(1)), noise_std),), {"y": y})
    moved, _, _ = inv.TDS().step(KEY, denoise, x, jnp.float32(0.5), jnp.float32(0.0), jnp.zeros((images, 2)))
    assert abs(float(moved[:, 0].mean()) - 0.4) < 5 * np.sqrt(0.24 / images)


# What each method makes of this posterior, whose mean is (0.908, −0.078) and whose variances are (0.2, 0.218): mean, variances.
# Where a number changes, the method has changed.
BIASED = {
    "pigdm": ((0.835, -0.068), (0.220, 0.207)),
    "pigdm_published": ((0.972, -0.096), (0.124, 0.187)),
    "ddnm": ((0.940, -0.049), (0.104, 0.163)),
    "diffpir": ((0.715, -0.073), (0.386, 0.204)),
    "jfps": ((0.788, 0.055), (0.248, 0.231)),
    "lgd": ((1.012, -0.137), (0.378, 0.343)),
    "dps": ((1.039, -0.153), (0.445, 0.375)),
    "replacement": ((0.821, 0.003), (0.211, 0.223)),
    "ddrm": ((0.896, -0.025), (0.120, 0.165)),
    "ddnm_plus": ((0.904, -0.037), (0.119, 0.164)),
    "daps": ((0.891, -0.038), (0.270, 0.320)),
    "red_diff": ((0.941, -0.051), (0.0305, 0.0476)),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("name", BIASED)
def test_known_bias(name):
    x = draw(name)
    mean, variance = BIASED[name]
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=5 * np.sqrt(max(variance) / NUMBER))
    np.testing.assert_allclose(x.var(axis=0), variance, rtol=5 * np.sqrt(2 / NUMBER))


@pytest.mark.few(2)
@pytest.mark.parametrize("name", METHODS)
def test_each_image_by_itself(name):
    """Its neighbours in the batch, and their measurements, change nothing."""
    shape, y = (4, 4, 1), jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2, 1)), jnp.float32)
    prior = GaussianMixture(jnp.ones(1), jnp.zeros((1, *shape)), jnp.full((1, *shape), 0.7))
    grid = grids.LogSNRUniform(6, end=0.01, to_zero=True)

    def solve(y):
        denoise, solver = build(name, prior.denoise(VP()), ops.BlockAverage(2), 0.1, y)
        return sample(KEY, denoise, solver, grid, (len(y), *shape)).x

    np.testing.assert_allclose(solve(y)[0], solve(y[:1])[0], rtol=1e-4, atol=1e-5)


def test_measured_part_without_noise_is_y():
    """The last step leaves what was seen as it was seen."""
    y = jnp.full((64, 1), Y)
    for name in ("replacement", "ddrm", "ddnm", "ddnm_plus"):
        denoise, solver = build(name, PRIOR.denoise(VP()), OPERATOR, 0.0, y)
        x = sample(KEY, denoise, solver, grids.LogSNRUniform(5, end=0.01, to_zero=True), (64, 2)).x
        np.testing.assert_allclose(OPERATOR(x), y, atol=1e-5, err_msg=name)


def test_repaint_mends_replacement():
    """Jumps back up let the unseen part meet the seen one: the mean comes nearer to the posterior's, as RePaint promises."""
    exact = posterior(noise_std=1e-6)[0]

    def error(solver, grid):
        denoise = guide(PRIOR.denoise(VP()), (inv.Measured(OPERATOR),), {"y": jnp.full((NUMBER, 1), Y)})
        return np.abs(sample(KEY, denoise, solver, grid, (NUMBER, 2)).x.mean(axis=0) - exact).max()

    grid = grids.LogSNRUniform(40, end=1e-2, to_zero=True)
    plain = error(inv.Replacement(Ancestral()), grid)
    jumped = error(Restart(inv.Replacement(Ancestral())), grids.Jumps(grid, length=4, repeats=6))
    assert plain > 0.07 and jumped < 0.4 * plain, (plain, jumped)


def test_jumps():
    """By hand: length 2, each passed 3 times, counted from the last time above 0."""
    times = grids.Jumps(grids.Given((1.0, 0.8, 0.6, 0.4, 0.2, 0.0)), 2, 3).times(VP())
    down = [0.6, 0.4, 0.2]
    expected = [1.0, 0.8, 0.6, 1.0, 0.8, 0.6, 1.0, 0.8, 0.6, 0.4, 0.2, *down, *down, 0.0]
    np.testing.assert_allclose(times, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="Jumps needs length >= 1 and repeats >= 1, got self.length=0"):
        grids.Jumps(GRID, 0)


def test_dps_evaluates_once_where_it_can():
    """With DDIM the estimate that the gradient needs is also the step's; Heun evaluates again, and that is counted."""
    y = jnp.full((2, 1), Y)
    denoise = guide(PRIOR.denoise(VP()), (inv.Measured(OPERATOR),), {"y": y})
    grid = grids.LogSNRUniform(4, end=0.01)
    nfe = [sample(KEY, denoise, inv.DPS(inner), grid, (2, 2)).nfe.tolist() for inner in (DDIM(), Heun())]
    assert nfe == [[4, 4], [12, 12]]


def test_mistakes():
    model, y = PRIOR.denoise(VP()), jnp.ones((2, 1))
    with pytest.raises(ValueError, match=r'PiGDM needs the measurement as observation\["y"\], got the names \[\]'):
        guide(model, (inv.PiGDM(OPERATOR),))
    with pytest.raises(
        ValueError, match=r"Matrix measures images \(3, 2\) as \(3, 1\), got observation y of shape \(2, 1\)"
    ):
        guide(model, (inv.PiGDM(OPERATOR),), {"y": y})(jnp.zeros((3, 2)), jnp.asarray(0.5))
    with pytest.raises(ValueError, match="DDRM needs a denoiser with a measurement, got ExactDenoise; put Measured"):
        sample(KEY, model, inv.DDRM(), GRID, (2, 2))
    unknown = ops.LinearFunction(lambda x: x[:, :1])
    for solver in (inv.DDRM(), inv.DDNMPlus(), inv.Replacement()):
        with pytest.raises(ValueError, match=f"{type(solver).__name__} needs an operator with a known singular"):
            sample(KEY, guide(model, (inv.Measured(unknown),), {"y": y}), solver, GRID, (2, 2))
    for make, message in [
        (lambda: inv.PiGDM(OPERATOR, -1.0), "PiGDM needs noise_std >= 0, got noise_std=-1.0"),
        (lambda: inv.PiGDM(OPERATOR, data_std=0.0), "PiGDM needs data_std > 0"),
        (lambda: inv.MMPS(OPERATOR, max_steps=0), "MMPS needs max_steps >= 1"),
        (lambda: inv.TMPD(OPERATOR, 0.0), "TMPD needs noise_std > 0"),
        (lambda: inv.DDNM(OPERATOR, 0.1), "DDNM needs noise_std = 0, got noise_std=0.1; use DDNMPlus"),
        (lambda: inv.DiffPIR(OPERATOR, 0.1, 0.0), "DiffPIR needs weight > 0"),
        (lambda: inv.DiffPIR(OPERATOR, 0.0), "DiffPIR needs noise_std > 0"),
        (lambda: inv.Measured(OPERATOR, -0.1), "Measured needs noise_std >= 0"),
        (lambda: inv.DPS(scale=-1.0), "DPS needs scale >= 0"),
        (lambda: inv.DDRM(eta=1.5), "DDRM needs eta, eta_b and eta_after in"),
        (lambda: inv.DDNMPlus(2.0), "DDNMPlus needs 0 <= eta <= 1"),
        (lambda: inv.DAPS(num_langevin=0), "DAPS needs num_ode, num_langevin >= 1"),
        (lambda: inv.REDDiff(learning_rate=0.0), "REDDiff needs weight >= 0 and learning_rate > 0"),
        (lambda: inv.TDS(threshold=2.0), "TDS needs data_std > 0 and 0 <= threshold <= 1"),
        (lambda: inv.TDS().check(VP(), np.array([1.0, 0.1])), "TDS needs a grid that goes to 0"),
        (lambda: inv.Renoise(2.0), "Renoise needs 0 <= eta <= 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
