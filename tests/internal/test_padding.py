"""A padded example has the solve, the density and the guidance of the example without padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import score_sde as ss
from score_sde import guidance
from score_sde.denoising.denoiser import BoundDenoiser
from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.gaussian_mixture import ExactDenoise
from score_sde.editing import round_trip_error
from score_sde.guidance.scaled import Place
from score_sde.internal.broadcast import expand_like
from score_sde.internal.per_example import is_finite, std
from score_sde.likelihood import ExactTrace, Hutchinson, example_bits
from score_sde.solvers.around.hook import RandomRigidMotion, recentre

SDE = ss.VP()
SIZES = (4, 2)  # points of each example; the others are padding
MASK = jnp.arange(4)[None] < jnp.asarray(SIZES)[:, None]
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 2)), jnp.float32)
PADDED, N = 1, SIZES[1]  # the example that is padded
KEY = jax.random.key(0)
SMOOTH = ss.grids.Uniform(2, start=0.9, end=0.1)


def exact(x, t, mean):
    """The estimate for numbers x0 ~ N(mean, 0.3²)."""
    alpha, sigma = (expand_like(each(jnp.asarray(t)), x) for each in (SDE.alpha, SDE.sigma))
    x0 = mean + alpha * 0.09 / (alpha**2 * 0.09 + sigma**2) * (x - alpha * mean)
    return Estimate(x0, (x - alpha * x0) / sigma)


def of_set(mask, mean=0.5):
    """A denoiser whose points are shifted by the mean of their set. At padding its output is wild."""

    def function(x, t):
        real = mask[..., None]
        number = jnp.sum(real.astype(x.dtype), axis=1, keepdims=True)
        centre = jnp.sum(jnp.where(real, x, 0), axis=1, keepdims=True) / number
        wild = 9 * jnp.sin(9 * x)
        return Estimate(*(jnp.where(real, each, wild) for each in exact(x + 0.1 * jnp.tanh(centre), t, mean)))

    return ss.FunctionDenoiser(SDE, function, weight=mask if not mask.all() else None)


def whole_and_alone(compute):
    """compute(denoise, x, index of the first image) for the batch, and for the padded example without its padding."""
    whole = compute(of_set(MASK), jnp.where(MASK[..., None], X, 7.0), 0)
    return whole, compute(of_set(jnp.ones((1, N), bool)), X[PADDED:, :N], PADDED)


@pytest.mark.parametrize(
    "solver",
    [ss.solvers.ProbabilityFlow(1e-3, 1e-3), ss.solvers.DPMSolver12(), ss.solvers.Langevin(num_steps=2)],
    ids=lambda solver: type(solver).__name__,
)
def test_the_steps_of_a_padded_example_are_those_of_the_example(solver):
    whole, alone = whole_and_alone(
        lambda denoise, x, first: ss.sample(KEY, denoise, solver, SMOOTH, x.shape, x_start=x, first_index=first)
    )
    assert whole.nfe[PADDED] == alone.nfe[0]
    np.testing.assert_allclose(whole.x[PADDED, :N], alone.x[0], rtol=1e-4, atol=1e-5)


def test_particles_of_a_padded_example_weigh_as_those_of_the_example():
    solver, grid = ss.solvers.FeynmanKac(num_particles=4), ss.grids.Uniform(3, end=0.1)

    def draw(size, weight, first):
        models = [ss.FunctionDenoiser(SDE, lambda x, t, m=m: exact(x, t, m), weight=weight) for m in (0.0, 1.0)]
        return ss.sample(
            KEY, guidance.compose(models, (1.0, 1.0)), solver, grid, (size[0], size[1], 2), first_index=first
        ).x

    whole, alone = draw((2, 4), MASK, 0), draw((1, N), None, PADDED)
    np.testing.assert_allclose(whole[PADDED, :N], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divergence", [ExactTrace(), Hutchinson()], ids=lambda each: type(each).__name__)
def test_bits_per_dim_of_a_padded_example_are_those_of_the_example(divergence):
    log_prob = ss.LogProb(divergence=divergence)

    def bits(denoise, x, first):
        index = first + jnp.arange(len(x))
        return example_bits(KEY, log_prob, denoise, x, bin_width=0.1, index=index)

    whole, alone = whole_and_alone(bits)
    assert whole.nfe[PADDED] == alone.nfe[0]
    np.testing.assert_allclose(whole.values[..., PADDED], alone.values[..., 0], rtol=1e-4)


def test_the_error_of_a_round_trip_leaves_out_padding():
    solver, grid = ss.solvers.Heun(), ss.grids.Uniform(2, start=0.9, end=0.1)
    whole, alone = whole_and_alone(lambda denoise, x, first: round_trip_error(denoise, x, solver, grid))
    np.testing.assert_allclose(whole[PADDED], alone[0], rtol=1e-3)


def test_a_padded_number_fails_no_image():
    """NaN in padding is allowed, NaN in a point is a failure."""

    def function(x, t):
        return Estimate(*(jnp.where(MASK[..., None], each, jnp.nan) for each in exact(x, t, 0.0)))

    for weight, failed in ((MASK, [False, False]), (None, [False, True])):
        denoise = ss.FunctionDenoiser(SDE, function, weight=weight)
        samples = ss.sample(KEY, denoise, ss.solvers.DDIM(), SMOOTH, X.shape)
        assert samples.failed.tolist() == failed


RULES = [
    guidance.CFGZeroStar(scale=2.0),
    guidance.APG(scale=2.0, norm_threshold=0.5),
    guidance.APG(scale=2.0, norm_threshold=0.5, axes=(0,)),
]


@pytest.mark.parametrize("rule", RULES, ids=["cfg_zero_star", "apg", "apg by channel"])
def test_two_answers_are_combined_without_padding(rule):
    def combined(x, weight):
        t, scale = jnp.float32(0.5), jnp.full((1, 1, 1), 2.0)
        place = Place(SDE, x, t, scale, jnp.ones((1, 1, 1), bool), weight)
        return rule.combine(place, exact(x, t, 1.0), exact(x, t, -0.5), None).x0

    whole = combined(jnp.where(MASK[..., None], X, 7.0), MASK)
    np.testing.assert_allclose(whole[PADDED, :N], combined(X[PADDED:, :N], None)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "rule",
    [
        guidance.Autoguidance(weak=of_set(MASK), scale=2.0, rescale=0.7),
        guidance.EnergyGuidance(of="x_t", norm="relative", scale=0.3),
        guidance.EnergyGuidance(of="x0", norm="unit", scale=0.3),
    ],
    ids=["rescale", "relative norm", "unit norm"],
)
def test_norms_of_guidance_leave_out_padding(rule):
    whole, alone = whole_and_alone(lambda denoise, x, first: guided(rule, denoise, x))
    np.testing.assert_allclose(whole[PADDED, :N], alone[0], rtol=1e-4, atol=1e-5)


def guided(rule, denoise, x):
    if isinstance(rule, guidance.Autoguidance):
        mask = jnp.ones(x.shape[:2], bool) if denoise.weight is None else denoise.weight
        rule = guidance.Autoguidance(weak=of_set(mask, mean=-0.5), scale=2.0, rescale=0.7)
    return rule.wrap(denoise, {})(x, jnp.float32(0.5)).x0


def test_a_cloud_is_centred_by_its_points():
    cloud = jnp.where(MASK[..., None], X, jnp.nan)
    keys = jax.random.split(KEY, 2)
    moved = RandomRigidMotion(std=0.0, weight=MASK)(keys, cloud, jnp.float32(0.5))
    for i, n in enumerate(SIZES):
        np.testing.assert_allclose(
            recentre(KEY, cloud, jnp.float32(0.5), MASK)[i, :n], X[i, :n] - X[i, :n].mean(0, keepdims=True), atol=1e-6
        )
        np.testing.assert_allclose(moved[i, :n].mean(0), 0, atol=1e-6)


def test_standard_deviation_and_finiteness_of_padded_numbers():
    padded = jnp.where(MASK[..., None], X, jnp.nan)
    np.testing.assert_allclose(std(padded, MASK), [x[:n].std() for x, n in zip(X, SIZES, strict=True)], rtol=1e-6)
    np.testing.assert_allclose(std(X), X.std(axis=(1, 2)), rtol=1e-6)
    assert is_finite(padded, MASK).all() and is_finite(padded).tolist() == [True, False]


def subclasses(kind):
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_denoiser_of_the_library_knows_its_weight():
    """A wrapper that forgets the weight of its model would count padding again."""
    kinds = {each for each in subclasses(Denoise) if each.__module__.startswith("score_sde.")}
    assert BoundDenoiser in kinds and len(kinds) > 8
    silent = {
        each.__name__ for each in kinds if "weight" not in _own_names(each) and not getattr(each, "_is_protocol", 0)
    }
    assert silent == {ExactDenoise.__name__}  # mixtures of fixed dimension


def _own_names(kind):
    return {
        name
        for each in kind.__mro__
        if each not in (Denoise, object) and not getattr(each, "_is_protocol", 0)
        for name in [*vars(each), *getattr(each, "__dataclass_fields__", ())]
    }
