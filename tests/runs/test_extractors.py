"""Extractors give one row per image, the same in any batch; what they lack is said."""

import jax
import numpy as np
import pytest

from score_sde import parallel
from score_sde.importers import inception_path
from score_sde.metrics import oriented_gradients
from score_sde.runs.extractors import get_extractor

MESH = parallel.make_mesh(1)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)


def test_pixels_are_the_values_of_the_model():
    pool = get_extractor("pixels", MESH)(IMAGES)["pool"]
    assert np.array_equal(pool, (IMAGES.reshape(5, -1).astype(np.float64) / 127.5 - 1).astype(np.float32))
    points = np.array([[0.5, -3.0], [2.0, 1.0]], np.float32)
    assert np.array_equal(get_extractor("pixels", MESH)(points)["pool"], points)


def test_oriented_gradients():
    pool = get_extractor("oriented_gradients", MESH)(IMAGES)["pool"]
    np.testing.assert_allclose(pool, oriented_gradients(IMAGES / 127.5 - 1).reshape(5, -1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"'oriented_gradients' need images \[b, h, w, c\], got shape \(2, 2\)"):
        get_extractor("oriented_gradients", MESH)(np.zeros((2, 2), np.float32))


def test_a_callable_of_the_user():
    own = get_extractor("tests.runs.own_features:brightness", MESH)
    assert own.digest.startswith("source ") and own.outputs == ("pool",)
    assert own(IMAGES)["pool"][2].tolist() == [np.float32(IMAGES[2].mean()), IMAGES[2].max()]
    named = get_extractor("tests.runs.own_features:named", MESH)
    assert named.digest == "weights 7" and named(IMAGES, ("logits", "pool"))["logits"].shape == (5, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("inceptoin", r"--features needs one of .*got 'inceptoin'. Did you mean 'inception'\?"),
        ("no_such_module:f", r"needs a module that can be imported .*put its folder on PYTHONPATH"),
        ("tests.runs.own_features:missing", r"has the attribute.*missing"),
        ("tests.runs.own_features:number", r"needs a callable from images to features, got int"),
    ],
)
def test_names_that_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        get_extractor(name, MESH)


def test_outputs_that_are_not_there():
    pixels = get_extractor("pixels", MESH)
    with pytest.raises(ValueError, match=r"have no 'logits'.*pt_inception-2015-12-05-6726825d.pth and run"):
        pixels(IMAGES, ("pool", "logits"))
    with pytest.raises(ValueError, match=r"have no 'spatial', only \['pool'\]; sfid needs --features=inception"):
        pixels(IMAGES, ("spatial",))
    with pytest.raises(ValueError, match=r"need an array \[5, d\] as 'pool', got shape \(\)"):
        get_extractor("tests.runs.own_features:flat", MESH)(IMAGES)


def test_inception_without_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("SCORE_SDE_INCEPTION", str(tmp_path / "none.npz"))
    with pytest.raises(FileNotFoundError, match="python -m experiments.import_inception"):
        get_extractor("inception", MESH)


@pytest.mark.slow
@pytest.mark.skipif(not inception_path().is_file(), reason="no weights; python -m experiments.import_inception")
def test_inception_of_a_batch_that_devices_do_not_share():
    """Three images on all devices, and each alone on one."""
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    several = get_extractor("inception", parallel.make_mesh(len(jax.devices())))(images, ("pool", "spatial"))
    one = get_extractor("inception", MESH)
    for i in range(3):
        alone = one(images[i : i + 1], ("pool", "spatial"))
        for name in alone:
            np.testing.assert_allclose(several[name][i], alone[name][0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"need images .* in 0…255, got float32 \(2, 2\)"):
        one(np.zeros((2, 2), np.float32))
