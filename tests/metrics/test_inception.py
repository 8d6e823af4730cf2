"""InceptionV3: its features against the reference's where the weights are, and what can be said without them."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.importers import inception_path, load_inception
from score_sde.metrics import inception, inception_features

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / "golden" / "metrics" / "inception.npz")
have_weights = pytest.mark.skipif(
    not inception_path().is_file(), reason="needs the weights: python -m experiments.import_inception"
)


@have_weights
def test_features_equal_the_references():
    cells = inception.fold(load_inception())
    features = inception_features(cells, GOLDEN["images_u8"])
    np.testing.assert_allclose(features.pool, GOLDEN["features"], rtol=0, atol=1e-4)
    assert features.spatial.shape == (4, 17 * 17 * 7)


def test_resize_is_tensorflow_1s():
    """Output i lies at i·size/299 between two pixels, the last of them repeated; 299 pixels stay as they are."""
    line = np.array([0, 10, 30], np.uint8)
    images = np.broadcast_to(line[None, None, :, None], (1, 3, 3, 1))
    y = np.asarray(inception.resize(jnp.asarray(images)))[0, 0, :, 0]
    position = np.arange(299) * 3 / 299
    np.testing.assert_allclose(y, np.interp(position, [0, 1, 2], line), atol=1e-4)
    np.testing.assert_array_equal(inception.interpolation(299), np.eye(299))


def test_mean_pooling_leaves_the_padding_out():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    pooled = np.asarray(inception._mean(x))[0, :, :, 0]
    assert pooled[0, 0] == np.mean([0, 1, 3, 4]) and pooled[1, 1] == 4


def test_the_norm_is_folded_into_the_kernel():
    rng = np.random.default_rng(0)
    weight, beta, mean, var = rng.normal(size=(5, 3, 2, 2)), *rng.normal(size=(2, 5)), rng.uniform(1, 2, 5)
    cells = inception.fold({"a.weight": weight, "a.beta": beta, "a.mean": mean, "a.var": var})
    x = rng.normal(size=(1, 2, 2, 3)).astype(np.float32)
    y = inception._cell(cells, "a", jnp.asarray(x), 1, "VALID")
    plain = np.einsum("bhwc,ochw->bo", x, weight)
    expected = np.maximum((plain - mean) / np.sqrt(var + 1e-3) + beta, 0)
    np.testing.assert_allclose(np.asarray(y)[:, 0, 0], expected, rtol=1e-5, atol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="inception_features needs images with 1 or 3 channels, got 2"):
        inception_features({}, np.zeros((1, 8, 8, 2), np.uint8))
