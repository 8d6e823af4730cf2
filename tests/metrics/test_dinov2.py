"""DINOv2: its features against two other implementations, and what can be tested without them."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.importers import import_dinov2, load_dinov2
from score_sde.metrics import dinov2_features
from score_sde.metrics.features import dinov2

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / "golden" / "metrics" / "dinov2.npz")
HEAD_WIDTH = 8  # of the golden's small network


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    """The golden's network, by way of the importer."""
    folder = tmp_path_factory.mktemp("dinov2")
    (folder / "model.safetensors").write_bytes(GOLDEN["safetensors"].tobytes())
    return load_dinov2(import_dinov2(folder / "model.safetensors", folder / "weights.npz"))


@pytest.mark.few(2)
@pytest.mark.parametrize(("implementation", "offset"), [("original", dinov2.OFFSET), ("transformers", 0.0)])
@pytest.mark.parametrize("images", ["large", "small", "wide"])  # 224×224, 32×32 and 240×300 pixels
def test_features_equal_the_references(tensors, implementation, offset, images):
    assert implementation in json.loads(str(GOLDEN["__meta__"]))
    features = dinov2_features(dinov2.stack_blocks(tensors, offset), GOLDEN[f"{images}_u8"], HEAD_WIDTH)
    np.testing.assert_allclose(features, GOLDEN[f"{images}_{implementation}"], rtol=0, atol=1e-5)


def test_the_giants_feed_forward_equals_the_originals():
    names = [f"{layer}.{leaf}" for layer in ("w12", "w3") for leaf in ("weight", "bias")]
    p = {f"mlp.{name}": jnp.asarray(GOLDEN[f"swiglu_{name}"], jnp.float32) for name in names}
    y = dinov2.feed_forward(p, jnp.asarray(GOLDEN["swiglu_x"], jnp.float32))
    np.testing.assert_allclose(y, GOLDEN["swiglu_y"], rtol=0, atol=1e-6)


def test_grey_images_are_repeated(tensors):
    parameters = dinov2.stack_blocks(tensors)
    grey = GOLDEN["small_u8"][..., :1]
    one, three = (dinov2_features(parameters, x, HEAD_WIDTH) for x in (grey, np.repeat(grey, 3, axis=-1)))
    np.testing.assert_allclose(one, three, rtol=0, atol=1e-5)


def test_positions_of_224_pixels_stay_as_they_are():
    table = np.random.default_rng(0).normal(size=(1, 257, 4)).astype(np.float32)
    assert np.array_equal(dinov2.positions(table), table)


def test_errors():
    images = np.zeros((1, 8, 8, 2), np.uint8)
    with pytest.raises(ValueError, match="dinov2_features needs images with 1 or 3 channels, got 2"):
        dinov2_features({"cls_token": np.zeros((1, 1, 64))}, images)
    with pytest.raises(ValueError, match="a width that is a multiple of head_width=64, got 32"):
        dinov2_features({"cls_token": np.zeros((1, 1, 32))}, images[..., :1])
