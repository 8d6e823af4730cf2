"""bits/dim: the offset against exact discrete probabilities, the interval's coverage, the mean over padded batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.likelihood import (
    ExactTrace,
    ExampleBits,
    Hutchinson,
    LogDensity,
    LogProb,
    bits_per_dim,
    dequantize,
    example_bits,
    summarize,
)
from score_sde.likelihood.density import image_keys
from score_sde.sdes import VP
from score_sde.solvers.adaptive_ode import Adaptive
from tests.independence import assert_all_independent, assert_independent

KEY = jax.random.key(5)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, 0.5), (127.5, 127.5)])
def test_dequantized_density_bounds_the_discrete_probability_in_any_range(scale, shift):
    """A Gaussian over 16 levels: P(level) is a difference of its distribution function."""
    width = scale * 2 / 15
    levels = scale * np.linspace(-1, 1, 16) + shift
    mean, std = 0.2 * scale + shift, 0.4 * scale
    exact = -np.log2(ndtr((levels + width / 2 - mean) / std) - ndtr((levels - width / 2 - mean) / std))
    u = (np.arange(1000) + 0.5) / 1000
    noised = levels[:, None] + (u - 0.5) * width
    log_prob = -0.5 * ((noised - mean) / std) ** 2 - np.log(std * np.sqrt(2 * np.pi))
    bound = bits_per_dim(log_prob, 1, width).mean(axis=1)
    assert np.all(bound >= exact - 1e-6)
    gap = log_prob.var(axis=1) / (2 * np.log(2))  # of Jensen's inequality: half the variance of log p within a bin
    np.testing.assert_allclose(bound - exact, gap, rtol=0.05, atol=1e-5)
    reference = bits_per_dim(-0.5 * ((noised - mean) / std) ** 2 - np.log(0.4 * np.sqrt(2 * np.pi)), 1, 2 / 15)
    np.testing.assert_allclose(bound, reference.mean(axis=1), rtol=1e-12)  # no range changes bits/dim


def test_offsets():
    """A uniform density over the range of 256 bins is worth 8 bits, whatever the scaling: the 2021 code's 7 is 8 − 1."""
    for low, high, width in ((-1.0, 1.0, 2 / 256), (0.0, 1.0, 1 / 256), (-1 - 1 / 255, 1 + 1 / 255, 2 / 255)):
        assert bits_per_dim(np.array([-12 * np.log(high - low)]), 12, width)[0] == pytest.approx(8, abs=1e-12)
    assert bits_per_dim(np.zeros(1), 3, 2 / 256)[0] == 7
    assert bits_per_dim(np.zeros(1), 3, 2 / 255)[0] == pytest.approx(6.99435, abs=1e-5)
    assert bits_per_dim(np.array([-3 * np.log(2)]), 3, None)[0] == pytest.approx(1)


class Recorded(LogProb):
    """Solves nothing, and keeps what it was given and the probes that it would have drawn."""

    def __call__(self, key, denoise, x, *, index=None):
        SEEN.append((x, Hutchinson(kind="gaussian").draw(image_keys(key, index), x)))
        nfe, failed = jnp.ones(len(x), jnp.int32), jnp.zeros(len(x), bool)
        return LogDensity(jnp.zeros(len(x)), x, nfe, jnp.zeros((1, len(x))), failed)


SEEN = []


def test_dequantization_and_probes_of_every_repeat_and_image_are_independent():
    x, index = jnp.zeros((3000, 2)), jnp.arange(3000)
    denoise = GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.ones((1, 2))).denoise(VP())
    SEEN.clear()
    example_bits(KEY, Recorded(), denoise, x, bin_width=1.0, num_repeats=3, index=index)
    noise, probes = (
        np.stack([np.asarray(part).reshape(3000, 2) for part in parts], 1) for parts in zip(*SEEN, strict=True)
    )
    assert noise.shape == probes.shape == (3000, 3, 2)
    assert_independent(noise=noise, probes=probes)
    for drawn in (noise, probes):
        assert_all_independent(drawn)
        assert_independent(image=drawn[:-1], next_image=drawn[1:])
    example_bits(KEY, Recorded(), denoise, x[:5], bin_width=1.0, index=index[7:12])
    for drawn, whole in zip(SEEN[-1], (noise, probes), strict=True):
        np.testing.assert_array_equal(np.asarray(drawn).reshape(5, 2), whole[7:12, 0])


def test_dequantize_fills_the_bin_and_belongs_to_the_image():
    x, width = jnp.full((6, 40, 50, 1), 0.2), 2 / 255
    noised = dequantize(KEY, x, width)
    offset = np.asarray(noised - x) / width
    assert -0.5001 <= offset.min() < -0.499
    assert 0.499 < offset.max() <= 0.5001
    assert abs(offset.mean()) < 4.5 * np.sqrt(1 / 12 / offset.size)
    assert abs(offset.var() - 1 / 12) < 4.5 * np.sqrt(1 / 180 / offset.size)
    np.testing.assert_array_equal(dequantize(KEY, x[:2], width, jnp.array([4, 2])), np.asarray(noised)[[4, 2]])


def batch_bits(points, index, mask=None, num_repeats=2):
    unit = GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.array([[0.3, 0.6]]))
    log_prob = LogProb(Adaptive(1e-4, 1e-4), 1e-3, Hutchinson(3, "gaussian"))
    return example_bits(
        KEY,
        log_prob,
        unit.denoise(VP()),
        jnp.asarray(points, jnp.float32),
        bin_width=0.1,
        num_repeats=num_repeats,
        index=jnp.asarray(index),
        mask=mask,
    )


def test_padded_batches_count_every_example_once():
    points = np.random.default_rng(0).normal(size=(7, 2)) * [0.3, 0.6]
    first = batch_bits(points[:4], np.arange(4))
    padded = np.concatenate([points[4:], np.zeros((1, 2))])
    last = batch_bits(padded, np.array([4, 5, 6, 0]), mask=jnp.array([True, True, True, False]))
    assert first.values.shape == (2, 3, 4)
    assert last.values.shape == (2, 3, 3)
    assert last.nfe.shape == (3,)
    ratio = first.nfe / batch_bits(points[:4], np.arange(4), num_repeats=1).nfe
    assert np.all((ratio > 1.5) & (ratio < 2.5))  # of both repeats, each with its own steps
    assert first.values.dtype == np.float64
    other = [batch_bits(points[i : i + 4], np.arange(i, i + 4)) for i in (0, 3)]
    np.testing.assert_allclose(last.values, other[1].values[:, :, 1:], atol=1e-4)  # the same example in another batch
    result = summarize([first, last])
    assert result.num_examples == 7
    expected = np.concatenate([first.values, last.values], axis=2).mean(axis=(0, 1))
    np.testing.assert_allclose(result.per_example, expected, rtol=1e-12)
    assert result.mean == pytest.approx(expected.mean(), rel=1e-12)
    assert result.standard_error == pytest.approx(np.sqrt(np.sum((expected - expected.mean()) ** 2) / (6 * 7)))
    assert result.nfe == pytest.approx(np.concatenate([first.nfe, last.nfe]).mean())
    assert np.ptp(first.values, axis=0).min() > 0  # repeats draw anew
    assert np.ptp(first.values, axis=1).min() > 0  # so do probes


def test_bits_of_continuous_data_are_the_density():
    gaussian = GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.array([[0.3, 0.6]]))
    x = jnp.array([[0.1, 0.2], [-0.3, 0.8]])
    log_prob = LogProb(t_min=1e-5, divergence=ExactTrace())
    ours = example_bits(KEY, log_prob, gaussian.denoise(VP()), x, bin_width=None)
    np.testing.assert_allclose(ours.values[0, 0], -gaussian.log_prob(x) / (2 * np.log(2)), atol=1e-3)


def simulated(rng, examples, repeats, probes, spread=0.5, dequantization=0.3, probe=0.4):
    """bits/dim 3 + N(0, spread²) for the example + N(0, ·) for each repeat + N(0, ·) for each probe."""
    values = 3 + spread * rng.normal(size=(1, 1, examples)) + dequantization * rng.normal(size=(repeats, 1, examples))
    return ExampleBits(values + probe * rng.normal(size=(repeats, probes, examples)), np.full(examples, 10))


def test_the_interval_of_three_examples_by_hand():
    """Mean 4, standard deviation 2, and Student's t with two degrees of freedom: 4.3027 for 95 %."""
    result = summarize([ExampleBits(np.array([[[2.0, 4.0, 6.0]]]), np.full(3, 10))])
    np.testing.assert_allclose(result.interval, 4 + np.array([-1, 1]) * 4.30265 * 2 / np.sqrt(3), rtol=1e-5)


def test_the_interval_covers_as_often_as_it_says():
    rng, trials, covered = np.random.default_rng(1), 2000, 0
    for _ in range(trials):
        low, high = summarize([simulated(rng, 8, 1, 2), simulated(rng, 4, 1, 2)], confidence=0.9).interval
        covered += low < 3 < high
    assert abs(covered / trials - 0.9) < 4.5 * np.sqrt(0.9 * 0.1 / trials)


def test_standard_errors_are_those_of_their_sources():
    n, r, p = 4000, 3, 5
    result = summarize([simulated(np.random.default_rng(2), n, r, p)])
    probe, repeat = 0.4**2 / (r * p), 0.3**2 / r + 0.4**2 / (r * p)
    assert result.probe_standard_error == pytest.approx(np.sqrt(probe / n), rel=0.03)
    assert result.repeat_standard_error == pytest.approx(np.sqrt(repeat / n), rel=0.06)
    assert result.standard_error == pytest.approx(np.sqrt((0.5**2 + repeat) / n), rel=0.06)
    single = summarize([simulated(np.random.default_rng(2), 5, 1, 1)])
    assert single.probe_standard_error is None
    assert single.repeat_standard_error is None


def test_one_example_has_no_interval():
    result = summarize([simulated(np.random.default_rng(3), 1, 1, 1)])
    assert np.isnan(result.standard_error)
    assert np.isnan(result.interval).all()
    assert np.isfinite(result.mean)


def test_errors():
    for width in (0.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"bin_width needs to be > 0 .*got"):
            bits_per_dim(np.zeros(1), 2, width)
        with pytest.raises(ValueError, match=r"bin_width needs to be > 0 .*got"):
            dequantize(KEY, jnp.zeros((1, 2)), width)
    with pytest.raises(ValueError, match="bits_per_dim needs num_dims >= 1, got 0"):
        bits_per_dim(np.zeros(1), 0, 1.0)
    with pytest.raises(ValueError, match="example_bits needs num_repeats >= 1, got 0"):
        batch_bits(np.zeros((1, 2)), np.arange(1), num_repeats=0)
    with pytest.raises(ValueError, match="summarize needs examples, all with as many repeats and probes, got 0"):
        summarize([])
    rng = np.random.default_rng(4)
    with pytest.raises(ValueError, match="summarize needs examples, all with as many repeats and probes, got 4"):
        summarize([simulated(rng, 2, 1, 1), simulated(rng, 2, 1, 2)])
    with pytest.raises(ValueError, match="summarize needs 0 < confidence < 1, got 95"):
        summarize([simulated(rng, 2, 1, 1)], confidence=95.0)
