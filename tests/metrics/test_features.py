import dataclasses
import json
import pathlib

import numpy as np
import pytest

from score_sde.metrics import (
    FeatureStatistics,
    frechet_distance,
    frechet_error,
    frechet_standard_error,
    oriented_gradients,
    statistics,
)
from score_sde.metrics.frechet import bootstrap
from score_sde.metrics.statistics import root

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "metrics"
ARRAYS = np.load(GOLDEN / "peers.npz")
VALUES = json.loads((GOLDEN / "peers.json").read_text(encoding="utf-8"))["values"]


def test_statistics_are_those_of_the_peers():
    statistics = FeatureStatistics.of(ARRAYS["feat_small_gen"])
    np.testing.assert_allclose(statistics.mean, ARRAYS["mu_small_gen"], rtol=1e-13)
    np.testing.assert_allclose(statistics.cov, ARRAYS["sigma_small_gen"], atol=1e-14)


def test_fewer_examples_than_dimensions():
    a, b = (ARRAYS[f"feat_{name}"] for name in ("small_gen", "small_real"))
    ours = FeatureStatistics.of(a).frechet_distance(FeatureStatistics.of(b))
    for peer in ("torch_fidelity", "pytorch_fid", "clean_fid"):
        assert ours == pytest.approx(VALUES["small_gen|small_real"][f"fid_{peer}"], rel=1e-6)
    # Exact, without any root: tr (C1 C2)^½ is the sum of the singular values of A Bᵀ/√((n−1)(m−1)), A and B centred.
    a, b = a.astype(np.float64), b.astype(np.float64)
    shift = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    a, b = (a - a.mean(axis=0)) / np.sqrt(len(a) - 1), (b - b.mean(axis=0)) / np.sqrt(len(b) - 1)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    assert ours == pytest.approx(shift + (a**2).sum() + (b**2).sum() - 2 * overlap, rel=1e-13)


def test_closed_form_for_commuting_covariances():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    sd1, sd2 = np.array([0.0, 1e-6, 0.1, 1, 2, 30]), np.array([0.0, 1, 0.1, 1e-8, 3, 10])
    mean = rng.normal(size=6)
    cov1, cov2 = ((basis * sd**2) @ basis.T for sd in (sd1, sd2))
    cov1, cov2 = (cov1 + cov1.T) / 2, (cov2 + cov2.T) / 2
    expected = (mean**2).sum() + ((sd1 - sd2) ** 2).sum()
    assert frechet_distance(mean, cov1, np.zeros(6), cov2) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(mean, cov1, mean, cov1) == pytest.approx(0, abs=1e-10)


def test_merged_batches_equal_the_whole():
    features = np.random.default_rng(0).normal(loc=100, size=(50, 3, 2)).astype(np.float32)
    whole = FeatureStatistics.of(features)
    parts = [FeatureStatistics.of(part) for part in (features[:7], features[7:9], features[9:])]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.count == 50
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(merged.cov, whole.cov, rtol=1e-10, atol=1e-12)


def test_the_root_of_a_reference_is_taken_once(monkeypatch):
    taken, root = [], statistics.root
    monkeypatch.setattr(statistics, "root", lambda cov: taken.append(len(cov)) or root(cov))
    reference = FeatureStatistics.of(ARRAYS["feat_real"])
    sets = [FeatureStatistics.of(ARRAYS["feat_gen"][:n]) for n in (300, 400)]
    distances = [one.frechet_distance(reference) for one in (*sets, *sets)]
    assert distances[:2] == distances[2:] and taken == [48, 48, 48]


@pytest.mark.parametrize("other", ["feat_small_real", "feat_real"])
def test_fewer_samples_than_features_are_an_n_by_n_problem(monkeypatch, other):
    """The distance, its error and its bootstrap are those of the d × d problem, and nothing of 48 × 48 is decomposed."""
    rows, reference = ARRAYS["feat_small_gen"], FeatureStatistics.of(ARRAYS[other])
    one, tall = (dataclasses.replace(s, thin=None) for s in (FeatureStatistics.of(rows), reference))
    with monkeypatch.context() as patched:
        patched.setattr(FeatureStatistics, "of", lambda features: one)
        wanted = [one.frechet_distance(tall), tall.frechet_distance(one), frechet_standard_error(rows, tall)]
    interval = bootstrap(rows, tall, 40)
    if other == "feat_small_real":
        monkeypatch.setattr(statistics, "root", None)  # a call would raise
    one, taken, svd = FeatureStatistics.of(rows), [], np.linalg.svd
    monkeypatch.setattr(
        np.linalg, "svd", lambda matrix, **options: taken.append(matrix.shape) or svd(matrix, **options)
    )
    found = [one.frechet_distance(reference), reference.frechet_distance(one), frechet_standard_error(rows, reference)]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    np.testing.assert_allclose(bootstrap(rows, reference, 40), interval, rtol=1e-6)  # roots of rounded zeros: √ε
    assert {min(shape) for shape in taken} <= {25, 30}


@pytest.mark.few(1)
@pytest.mark.parametrize(("shift", "rtol"), [(0.2, 0.25), (0.0, 0.8)])
def test_standard_error_is_the_spread_over_fresh_sets(shift, rtol):
    """64 features of very different sizes; of the reference itself (shift 0) all of the distance is bias."""
    scale, rng = np.geomspace(1, 0.05, 64), np.random.default_rng(0)
    reference = FeatureStatistics(0, np.zeros(64), np.diag(scale**2))
    sets = [scale * (shift + (1 + shift) * rng.normal(size=(800, 64))) for _ in range(100)]
    spread = np.std([FeatureStatistics.of(x).frechet_distance(reference) for x in sets], ddof=1)
    errors = np.array([frechet_standard_error(x, reference) for x in sets])
    np.testing.assert_allclose(errors, spread, rtol=rtol)  # the spread itself is known to 7 %


def test_standard_error_is_that_of_the_derivative(monkeypatch):
    """φ(xᵢ) − mean φ = d FD/d weight of xᵢ, by finite differences; in blocks, and with fewer samples than features."""
    rng = np.random.default_rng(1)
    x, reference = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4)), FeatureStatistics.of(rng.normal(size=(50, 4)))

    def distance(weights):
        weights = weights / weights.sum()
        mean = weights @ x
        cov = (weights[:, None] * (x - mean)).T @ (x - mean) * 300 / 299
        return frechet_distance(mean, (cov + cov.T) / 2, reference.mean, reference.cov)

    step = 1e-6
    ones = np.full(300, 1 / 300)
    slopes = [(distance(ones + step * row) - distance(ones - step * row)) / (2 * step) for row in np.eye(300)]
    wanted = np.std(slopes, ddof=1) / np.sqrt(300)
    assert frechet_standard_error(x, reference) == pytest.approx(wanted, rel=0.01)  # n − 1 against n in C
    monkeypatch.setattr(frechet_error, "BLOCK", 7)
    assert frechet_standard_error(x, reference) == pytest.approx(wanted, rel=0.01)
    assert np.isfinite(frechet_standard_error(x[:3], reference))


def test_bad_features_and_covariances_are_errors():
    with pytest.raises(ValueError, match=r"at least 2 examples of finite features, got 1, 0 of them not finite"):
        FeatureStatistics.of(np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match=r"got 3, 1 of them not finite; find out which samples diverged"):
        FeatureStatistics.of(np.array([[0.0], [np.nan], [1.0]]))
    mean, cov = np.zeros(2), np.eye(2)
    with pytest.raises(ValueError, match=r"a finite mean and covariance, got NaN .*; compute them again"):
        FeatureStatistics(0, mean, np.full((2, 2), np.inf))
    with pytest.raises(ValueError, match=r"a finite mean and covariance, got NaN"):
        FeatureStatistics(0, mean + np.nan, cov)
    with pytest.raises(ValueError, match=r"a mean \[d\] and a covariance \[d, d\], got shapes \(2,\) and \(3, 3\)"):
        frechet_distance(mean, cov, mean, np.eye(3))
    with pytest.raises(ValueError, match=r"one number of features, got 2 and 3; use the same extractor"):
        frechet_distance(mean, cov, np.zeros(3), np.eye(3))
    for bad in (np.diag([1.0, -0.1]), np.array([[1.0, 0.5], [0.0, 1.0]])):
        with pytest.raises(ValueError, match=r"symmetric covariances without negative eigenvalues, got smallest"):
            frechet_distance(mean, cov, mean, bad)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_covariance_stored_in_float32(dtype):
    """512 features, of rank 99 and with very different sizes: rounding gives eigenvalues of −1e-7 times the largest.

    The dtype it is handed over in does not matter: readers of files cast.
    """
    rng, scale = np.random.default_rng(0), np.geomspace(3, 0.03, 512)
    exact, other = (
        FeatureStatistics.of(shift + scale * rng.normal(size=(n, 512))) for shift, n in ((0.1, 100), (0, 900))
    )
    mean, cov = (x.astype(np.float32).astype(dtype) for x in (exact.mean, exact.cov))
    smallest = np.linalg.eigvalsh(cov.astype(np.float64)).min()
    assert smallest < -100 * 512 * np.finfo(np.float64).eps * np.linalg.eigvalsh(exact.cov).max()
    stored = FeatureStatistics(100, mean, cov)
    for reference in (other, exact.merge(other)):
        assert stored.frechet_distance(reference) == pytest.approx(exact.frechet_distance(reference), rel=1e-3)
    assert stored.frechet_distance(exact) == pytest.approx(0, abs=1e-3 * np.trace(exact.cov))
    assert stored.mean.dtype == stored.cov.dtype == np.float64
    cov[0, 0] -= 100 * cov[0, 0]
    with pytest.raises(ValueError, match=r"without negative eigenvalues, got smallest .* where rounding is .*e-"):
        FeatureStatistics(100, mean, cov).frechet_distance(other)


def test_the_root_keeps_small_eigenvalues_of_a_covariance_in_float32():
    """The rounding of storage is far below d ε₃₂ max |λ| = 6e-5, which would take half of this spectrum for zero."""
    eigenvalues = np.geomspace(1, 1e-6, 512)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(512, 512)))[0]
    cov = (basis * eigenvalues) @ basis.T
    cov = ((cov + cov.T) / 2).astype(np.float32)
    found = np.sort(np.linalg.svd(statistics.root(cov), compute_uv=False))[::-1] ** 2
    np.testing.assert_allclose(found, eigenvalues, rtol=0.02)


def test_oriented_gradients_of_a_ramp():
    # x rises to the right by 0.2 a pixel: a central difference of 0.4, seen fully at 0°, half at ±45°, not beyond.
    ramp = np.broadcast_to(np.linspace(0, 10, 51), (51, 51))[None, :, :, None]
    middle = oriented_gradients(ramp, orientations=8)[0, 25, 25]
    np.testing.assert_allclose(middle, 0.4 * np.array([1, 0.5, 0, 0, 0, 0, 0, 0.5]), atol=2e-4)


def test_oriented_gradients_turn_with_the_image():
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 2))
    turned = oriented_gradients(np.rot90(image, axes=(2, 1)), orientations=4).reshape(8, 8, 2, 4)
    original = np.rot90(oriented_gradients(image, orientations=4).reshape(1, 8, 8, 2, 4), axes=(2, 1))[0]
    np.testing.assert_allclose(turned, np.roll(original, 1, axis=-1), atol=1e-12)


def test_flat_images_have_no_gradients():
    assert (oriented_gradients(np.full((1, 4, 6, 1), 0.3, np.float32)) == 0).all()


@pytest.mark.parametrize(("count", "dtype"), [(400, np.float64), (400, np.float32), (40, np.float64)])
def test_cholesky_s_root_is_taken_only_far_from_singular(count, dtype):
    """The root of a covariance of more samples than features, and the same distances as by eigendecomposition."""
    rng = np.random.default_rng(0)
    scale = np.exp(-np.linspace(0, 3, 64))
    statistics = FeatureStatistics.of(rng.standard_normal((count, 64)) * scale)
    cov = statistics.cov.astype(dtype).astype(np.float64)
    factor, other = root(cov), FeatureStatistics.of(rng.standard_normal((400, 64)) * scale)
    assert np.allclose(factor, np.tril(factor)) == (count > 64)
    np.testing.assert_allclose(factor @ factor.T, cov, atol=1e-13)
    values, vectors = np.linalg.eigh(cov)
    by_eigenvalues = vectors * np.sqrt(np.maximum(values, 0))
    overlaps = [np.linalg.svd(r.T @ other.root, compute_uv=False).sum() for r in (factor, by_eigenvalues)]
    np.testing.assert_allclose(*overlaps, rtol=1e-12 if count > 64 else 1e-6)


def test_a_singular_covariance_of_many_samples_is_not_decomposed(monkeypatch):
    """12 features turned into 40, which are then dependent, and 8 constants: distance and error are those of the 12."""
    rng, scale = np.random.default_rng(0), np.geomspace(1, 0.01, 12)
    turned = np.zeros((12, 48))
    turned[:, np.arange(48) % 6 > 0] = np.linalg.qr(rng.normal(size=(40, 12)))[0].T
    one, two = (shift + factor * scale * rng.normal(size=(500, 12)) for shift, factor in ((0.0, 1.0), (0.1, 1.5)))
    few, many = ([FeatureStatistics.of(x @ basis) for x in (one, two)] for basis in (np.eye(12), turned))
    assert [np.linalg.matrix_rank(s.cov) for s in many] == [12, 12]
    wanted = few[0].frechet_distance(few[1]), frechet_standard_error(one, few[1])
    with monkeypatch.context() as patched:
        patched.setattr(np.linalg, "eigh", None)  # a call would raise
        found = many[0].frechet_distance(many[1])
    assert many[1].root.shape == (48, 12)
    np.testing.assert_allclose((found, frechet_standard_error(one @ turned, many[1])), wanted, rtol=1e-9)
    np.testing.assert_allclose(many[1].root @ many[1].root.T, many[1].cov, atol=1e-14)
    constant = FeatureStatistics.of(np.ones((50, 48)))
    squared = ((constant.mean - many[1].mean) ** 2).sum()
    assert constant.frechet_distance(many[1]) == pytest.approx(squared + np.trace(many[1].cov), rel=1e-12)


def test_a_nearly_singular_covariance_has_no_use_for_cholesky_s_root():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    nearly = (basis * np.where(np.arange(64) < 32, 1.0, 1e-15)) @ basis.T
    nearly = (nearly + nearly.T) / 2
    assert abs(np.linalg.svd(root(nearly), compute_uv=False)[32:]).max(initial=0) < 1e-14
