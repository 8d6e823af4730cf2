"""Power-function averages against NVlabs/edm2 (tests/golden/net/edm2_ema.npz), and against exact integrals."""

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.training import power_averages as p
from score_sde.training.averages import ema_decay
from tests.networks.published import load

PACK, META = load("edm2_ema")
SNAPSHOTS = [(float(t), float(width)) for t, width in zip(PACK["posthoc/in_ofs"], PACK["posthoc/in_std"], strict=True)]


def test_exponents_and_widths():
    np.testing.assert_allclose([p.exponent_of(width) for width in PACK["std"]], PACK["exp"], rtol=1e-10)
    np.testing.assert_allclose([p.width_of(exponent) for exponent in PACK["exp_in"]], PACK["exp_in_std"], rtol=1e-12)
    np.testing.assert_allclose(p.width_of(p.exponent_of(0.13)), 0.13, rtol=1e-12)


def test_decay():
    pairs = list(zip(PACK["batch"].astype(float).tolist(), PACK["nimg"].astype(float).tolist(), strict=True))
    ours = [[p.power_decay(width, images, batch) for batch, images in pairs] for width in PACK["std"]]
    np.testing.assert_allclose(ours, PACK["beta"], rtol=1e-10)


def test_overlap_is_the_peers_and_the_integral():
    pairs = zip(*(PACK[f"corr/{name}"] for name in ("a_ofs", "a_std", "b_ofs", "b_std")), strict=True)
    ours = [p.overlap(a, p.exponent_of(s), b, p.exponent_of(w)) for a, s, b, w in pairs]
    np.testing.assert_allclose(ours, PACK["corr/value"], rtol=1e-10)
    t = (np.arange(200_000) + 0.5) / 200_000 * 2.0
    product = 3.0 * (t / 2.0) ** 2 / 2.0 * 5.0 * (t / 3.0) ** 4 / 3.0
    np.testing.assert_allclose(p.overlap(2.0, 2.0, 3.0, 4.0), product.mean() * 2.0, rtol=1e-8)


def test_tracked_average():
    for width in (0.05, 0.1):
        average = PACK["track/w0"].astype(np.float64)
        for step, images in enumerate(PACK["track/nimg"].astype(float).tolist()):
            decay = p.power_decay(width, images, float(META["config"]["batch"]))
            average = average + (1 - decay) * (PACK["track/w"][step] - average)
            np.testing.assert_allclose(average, PACK[f"track/ema_w_{width:.3f}_f64"][step], rtol=0, atol=1e-12)


def test_reconstruction():
    targets = list(zip(PACK["posthoc/out_ofs"], PACK["posthoc/out_std"], strict=True))
    for i, (images, width) in enumerate(targets):
        weights = p.reconstruction_weights(SNAPSHOTS, float(images), float(width))
        np.testing.assert_allclose(weights, PACK["posthoc/coef"][i], rtol=0, atol=1e-9)
        trees = [{"w": snapshot} for snapshot in PACK["posthoc/snap"]]
        ours = p.reconstruct(trees, SNAPSHOTS, float(images), float(width))["w"]
        np.testing.assert_allclose(ours, PACK[f"posthoc/w_{i}"], rtol=0, atol=1e-9)
        error = np.abs(ours - PACK[f"posthoc/true_w_{i}"]).max()
        assert error <= 1.001 * META["posthoc_vs_true_maxabs"][i] + 1e-9


def test_an_infinite_half_life_with_ramp_up_is_the_power_function():
    """Up to second order in the images of an update over the images seen: here 1e-4."""
    ours = ema_decay(jnp.asarray(10_000), 64, float("inf"), p.rampup_ratio(0.1))
    np.testing.assert_allclose(1 - ours, 1 - p.power_decay(0.1, 640_000.0, 64.0), rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: p.exponent_of(0.3), r"0 < width < 0\.289, got 0\.3"),
        (lambda: p.width_of(-1.0), "exponent > -1, got -1.0"),
        (lambda: p.reconstruction_weights([(10.0, 0.1)], 5.0, 0.1), "at 5.0 images needs a snapshot until then"),
        (lambda: p.reconstruction_weights([(1.0, 0.1), (1.0, 0.1)], 5.0, 0.1), "each pair of images and width once"),
        (lambda: p.reconstruct([], [(1.0, 0.1)], 5.0, 0.1), "one snapshot for each average, got 1 and 0"),
    ],
)
def test_what_cannot_be_done(call, told):
    with pytest.raises(ValueError, match=told):
        call()
