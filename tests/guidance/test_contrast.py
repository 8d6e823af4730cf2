"""Every rule with a positive and a negative answer: identities, the interval, one program, two devices."""

import dataclasses
import functools
import itertools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising.memory import Memory, remembering
from score_sde.guidance import APG, CFGPlusPlus, CFGZeroStar, ClassifierFree, Piecewise
from score_sde.guidance.contrast import ConditionPair
from score_sde.internal.pytree import pytree
from score_sde.sdes import VP
from score_sde.solvers import DDIM, Heun, sample
from score_sde.solvers.grids import Given, LogSNRUniform, Uniform
from tests.conformance import CONTRASTS
from tests.guidance import two_devices
from tests.guidance.test_classifier_free import Rows, Seen, model, points
from tests.solvers.test_sample import compilations

LABELS = np.array([0, 1, 2, 1])
T = jnp.float32(0.4)
RULES = pytest.mark.parametrize("name", CONTRASTS)
KEY = jax.random.key(8)


def unconditional():
    return model(np.full(4, 3))


@RULES
def test_scale_one_is_the_conditional_model(name):
    """To the last bit. CFG++ has the image of the conditional model, and the noise of the unconditional one."""
    x = points(4)
    rule = dataclasses.replace(CONTRASTS[name], scale=1.0)
    found, conditional = rule.wrap(model(LABELS), {})(x, T), model(LABELS)(x, T)
    eps = unconditional()(x, T).eps if isinstance(rule, CFGPlusPlus) else conditional.eps
    np.testing.assert_array_equal(found.x0, conditional.x0)
    np.testing.assert_allclose(found.eps, eps, rtol=1e-6 if isinstance(rule, CFGPlusPlus) else 0)


@pytest.mark.parametrize("rule", [ClassifierFree(0.0), CFGPlusPlus(0.0), APG(0.0, eta=1.0)])
def test_scale_zero_is_the_unconditional_model(rule):
    x = points(4)
    for found, expected in zip(rule.wrap(model(LABELS), {})(x, T), unconditional()(x, T), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


@pytree
class TwoCalls(ConditionPair):
    """The same pair, by two calls."""

    def both(self, x, t):
        return self.positive(x, t), self.positive.with_condition(self.negative)(x, t)


@RULES
def test_one_call_with_twice_the_batch_is_two_calls(name):
    x, rule = points(4), CONTRASTS[name]
    pair = TwoCalls(model(LABELS), model(LABELS).null_condition())
    for found, expected in zip(rule.wrap(model(LABELS), {})(x, T), rule.contrasted(pair)(x, T), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.few(2)
@RULES
def test_the_interval_changes_nothing_outside_and_nothing_inside(name):
    """Outside the conditional model; inside the rule without an interval. Also for a time of each image.

    To rounding: the branch is compiled as a whole, and the model alone one operation at a time.
    """
    sde, x = VP(), points(4)
    limited = dataclasses.replace(CONTRASTS[name], log_snr_min=-2.0, log_snr_max=1.0).wrap(model(LABELS), {})
    free = CONTRASTS[name].wrap(model(LABELS), {})
    times = sde.time_of_log_snr(jnp.array([-3.0, -1.5, 0.5, 1.5]))
    inside, each = np.array([False, True, True, False]), limited(x, times)
    assert (limited.evaluations(times) == 1 + inside).all()
    for i, t in enumerate(times):
        together, expected = limited(x, t), (free if inside[i] else model(LABELS))(x, t)
        for found, of_each, value in zip(together, each, expected, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(of_each[i], value[i], rtol=1e-6, atol=1e-6)


@pytest.mark.few(3)
@RULES
def test_other_numbers_compile_nothing(name):
    """Each number of the rule is traced."""

    def draw(rule):
        return sample(KEY, rule.wrap(model(LABELS), {}), DDIM(), LogSNRUniform(3), (4, 2)).x

    rule = dataclasses.replace(CONTRASTS[name], log_snr_min=-5.0, log_snr_max=5.0)
    fields = {f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)}
    other = {key: value * 0.9 for key, value in fields.items() if isinstance(value, float)}
    if rule.schedule is not None:
        other["schedule"] = Piecewise((-3.0, 0.1, 3.0), (0.2, 0.3, 0.9))
    before = draw(rule)
    with compilations() as seen:
        after = draw(dataclasses.replace(rule, **other))
    assert not seen and np.abs(before - after).max() > 1e-4


def test_a_schedule_is_linear_between_its_points():
    schedule = Piecewise((-2.0, 0.0, 4.0), (0.0, 1.0, 0.5))
    log_snr = jnp.array([-jnp.inf, -3.0, -1.0, 0.0, 2.0, 9.0, jnp.inf])
    np.testing.assert_allclose(schedule(log_snr), [0, 0, 0.5, 1, 0.75, 0.5, 0.5], rtol=1e-6)
    x, t = points(4), VP().time_of_log_snr(jnp.float32(-1.0))
    scheduled = ClassifierFree(3.0, schedule=schedule).wrap(model(LABELS), {})(x, t)
    np.testing.assert_allclose(scheduled.x0, ClassifierFree(2.0).wrap(model(LABELS), {})(x, t).x0, rtol=1e-5)
    with pytest.raises(ValueError, match=r"log_snr that increases and one weight for each, got log_snr=\(1.0, 0.0\)"):
        Piecewise((1.0, 0.0), (0.0, 1.0))


def by_hand(rule, x, times, calls):
    """DDIM (one call a step) or Heun's method on the probability flow (two), with Δ of each call kept by hand."""
    sde, conditional = VP(), model(LABELS)
    null, kept = conditional.with_condition(conditional.null_condition()), jnp.zeros_like(x)

    def guided(x, t):
        nonlocal kept
        positive, negative = conditional(x, t), null(x, t)
        kept = positive.x0 - negative.x0 + rule.momentum * kept
        return positive.x0 + (rule.scale - 1) * kept

    def slope(x, t):
        (alpha, alpha_rate), (sigma, sigma_rate) = sde.alpha_and_derivative(t), sde.sigma_and_derivative(t)
        x0 = guided(x, t)
        return alpha_rate * x0 + sigma_rate * (x - alpha * x0) / sigma

    for t, s in itertools.pairwise(times):
        if calls == 2:
            first = slope(x, t)
            x = x + 0.5 * (s - t) * (first + slope(x + (s - t) * first, s))
        else:
            x0 = guided(x, t)
            x = sde.alpha(s) * x0 + sde.sigma(s) * (x - sde.alpha(t) * x0) / sde.sigma(t)
    return x


@pytest.mark.parametrize(("solver", "calls"), [(DDIM(), 1), (Heun(), 2)])
def test_momentum_is_carried_from_call_to_call(solver, calls):
    """Within the one program of `sample`, and anew in each solve."""
    rule = APG(3.0, eta=1.0, momentum=-0.6)
    grid, x = Uniform(4, 0.9, 0.1), points(4)
    times = jnp.asarray(grid.times(VP()), jnp.float32)
    for _ in range(2):
        found = sample(KEY, rule.wrap(model(LABELS), {}), solver, grid, (4, 2), x_start=x).x
        np.testing.assert_allclose(found, by_hand(rule, x, times, calls), rtol=2e-4, atol=2e-5)
    without = sample(
        KEY, dataclasses.replace(rule, momentum=0.0).wrap(model(LABELS), {}), solver, grid, (4, 2), x_start=x
    )
    assert np.abs(without.x - found).max() > 1e-2


def test_memory_is_zero_outside_of_a_solve_and_stays_outside_of_the_interval():
    x, rule = points(4), APG(3.0, eta=1.0, momentum=-0.6, log_snr_max=1.0)
    guided = rule.wrap(model(LABELS), {})
    np.testing.assert_array_equal(guided(x, T).x0, guided(x, T).x0)
    started = remembering(guided, x)
    first = started(x, T)
    np.testing.assert_array_equal(first.x0, guided(x, T).x0)
    kept = started.memory.read(x)
    started(x, VP().time_of_log_snr(jnp.float32(2.0)))
    np.testing.assert_array_equal(started.memory.read(x), kept)
    # A time of each image: only those within the interval are written.
    started(2 * x, VP().time_of_log_snr(jnp.array([0.0, 2.0, 0.0, 2.0])))
    changed = np.any(started.memory.read(x) != kept, axis=1)
    assert changed.tolist() == [True, False, True, False]
    assert Memory().write(x) is None


def test_a_solve_with_momentum_has_no_reverse_mode():
    guided = APG(3.0, momentum=-0.5).wrap(model(LABELS), {})
    with pytest.raises(ValueError, match="keeps something from call to call.*set momentum=None"):
        sample(KEY, guided, DDIM(), Uniform(2, end=0.1), (4, 2), differentiable=True)


def test_zero_star_fits_the_size_of_the_unconditional_velocity():
    """A conditional velocity that is a multiple of the unconditional one is not changed by any scale."""
    x, scaled = points(4), jnp.float32(1.7)
    pair = ConditionPair(model(LABELS), model(LABELS).null_condition())

    class Multiple(TwoCalls):
        def both(self, x, t):
            negative = super().both(x, t)[1]
            velocity = scaled * (negative.eps - negative.x0)
            alpha, sigma = VP().alpha(t), VP().sigma(t)
            x0 = (x - sigma * velocity) / (alpha + sigma)
            return type(negative)(x0, x0 + velocity), negative

    multiple = Multiple(pair.positive, pair.negative)
    found, expected = CFGZeroStar(5.0).contrasted(multiple)(x, T), multiple.both(x, T)[0]
    np.testing.assert_allclose(found.x0, expected.x0, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(found.eps, expected.eps, rtol=2e-5, atol=2e-5)


def test_zero_star_at_first_moves_nothing_and_calls_no_network():
    """x stays, on Flow's kind of path v = ε̂ − x̂0 = 0; the network is not called, for which `evaluations` says 0."""
    sde, seen = VP(), Seen()
    guided = CFGZeroStar(2.0, zero_below=-4.0).wrap(Rows(model([0, 1, 2]), seen), {})
    times = np.asarray(sde.time_of_log_snr(jnp.array([-6.0, -5.0, 0.0, 3.0])), np.float32)
    samples = sample(KEY, guided, DDIM(), Given(times), (3, 2))
    jax.effects_barrier()
    assert seen == [6] and samples.nfe.tolist() == [2] * 3
    x, t = points(3), jnp.asarray(times[0])
    still = guided(x, t)
    np.testing.assert_array_equal(still.x0, still.eps)
    np.testing.assert_allclose(sde.alpha(t) * still.x0 + sde.sigma(t) * still.eps, x, rtol=1e-5)


def test_cfg_plus_plus_puts_back_the_unconditional_noise():
    """Algorithm 2 of the paper: x_s = α_s x̂0(λ) + σ_s ε̂(∅)."""
    sde, x, t, s = VP(), points(4), jnp.float32(0.5), jnp.float32(0.4)
    conditional, null = model(LABELS)(x, t), unconditional()(x, t)
    guided_eps = null.eps + 0.7 * (conditional.eps - null.eps)
    x0 = (x - sde.sigma(t) * guided_eps) / sde.alpha(t)
    found = sample(KEY, CFGPlusPlus(0.7).wrap(model(LABELS), {}), DDIM(), Given((0.5, 0.4)), (4, 2), x_start=x).x
    np.testing.assert_allclose(found, sde.alpha(s) * x0 + sde.sigma(s) * null.eps, rtol=1e-4, atol=1e-5)


def test_apg_where_both_models_agree():
    """Δ = 0 has no direction, and x̂0 = 0 neither: no NaN."""
    guided = APG(3.0, norm_threshold=0.1, momentum=-0.5).wrap(model(np.full(4, 3)), {})
    assert np.isfinite(guided(points(4), T).x0).all()


@functools.cache
def on_devices(folder: pathlib.Path):
    file = folder / "samples.npz"
    subprocess.run([sys.executable, "-m", "tests.guidance.two_devices", str(file)], check=True, timeout=250)
    return np.load(file)


def test_two_devices_give_the_same_samples(tmp_path_factory):
    """And as many evaluations, with an interval. Rows that are not needed are not computed on either device.

    A device may report its calls for itself, so that two devices report each call once or twice.
    """
    found = on_devices(tmp_path_factory.getbasetemp())
    for name, rules in two_devices.LIMITED.items():
        np.testing.assert_allclose(found[f"{name}/1/x"], found[f"{name}/2/x"], rtol=1e-5, atol=1e-6)
        evaluations = found[f"{name}/1/nfe"]
        assert evaluations.tolist() == found[f"{name}/2/nfe"].tolist()
        assert 6 * len(rules) < evaluations[0] < 6 * (1 + len(rules))
        for number in (1, 2):
            rows = np.sort(found[f"{name}/{number}/rows"])
            once = rows[:: len(rows) // 6]
            assert len(rows) in (6, 6 * number) and len(set(rows)) == 2
            assert once.sum() == evaluations.sum() and rows.sum() == len(rows) // 6 * evaluations.sum()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"log_snr_min": 2.0, "log_snr_max": 1.0}, "APG needs log_snr_min <= log_snr_max, got log_snr_min=2.0"),
        ({"rescale": 1.5}, "APG needs 0 <= rescale <= 1, got rescale=1.5"),
        ({"norm_threshold": -1.0}, "APG needs norm_threshold > 0 or None, got norm_threshold=-1.0"),
        ({"momentum": 1.0}, r"APG needs -1 < momentum < 1, else Δ grows.*got momentum=1.0"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ValueError, match=message):
        APG(2.0, **settings)
