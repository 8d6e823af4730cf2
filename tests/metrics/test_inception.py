"""InceptionV3: its features against the reference's if the weights exist, and what can be tested without them."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.importers import inception_path, load_inception
from score_sde.metrics import inception_features
from score_sde.metrics.features import inception

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / "golden" / "metrics" / "inception.npz")
have_weights = pytest.mark.skipif(
    not inception_path().is_file(), reason="needs the weights: score-sde import_inception"
)


@have_weights
def test_features_equal_the_references():
    cells = inception.fold(load_inception())
    features = inception_features(cells, GOLDEN["images_u8"][:4])
    np.testing.assert_allclose(features.pool, GOLDEN["features"][:4], rtol=0, atol=1e-4)
    np.testing.assert_allclose(features.spatial, GOLDEN["spatial"], rtol=0, atol=1e-4)  # up to 4.1


@pytest.mark.slow
@have_weights
def test_features_of_all_64_images_equal_the_references():
    cells, images = inception.fold(load_inception()), GOLDEN["images_u8"]
    pool = np.concatenate([inception_features(cells, images[i : i + 8]).pool for i in range(0, len(images), 8)])
    np.testing.assert_allclose(pool, GOLDEN["features"], rtol=0, atol=1e-4)


WIDTH = 10  # channels of the first branch of mixed_4 … mixed_7; 1 in all other cells
SEVENS = [
    "conv",
    *(f"tower.conv{i}" for i in ("", "_1", "_2")),
    *(f"tower_1.conv{i}" for i in ("", "_1", "_2", "_3", "_4")),
]
LASTS = ["conv", "tower_conv", "tower_mixed_conv", "tower_mixed_conv_1", "tower_1_conv", "tower_1_conv_1"]
LASTS += ["tower_1_mixed_conv", "tower_1_mixed_conv_1", "tower_2_conv"]
FIVES = ["conv", "tower.conv", "tower.conv_1", "tower_1.conv", "tower_1.conv_1", "tower_1.conv_2", "tower_2.conv"]
HALVES = ["tower.conv", "tower.conv_1", "tower_1.conv", "tower_1.conv_1", "tower_1.conv_2", "tower_1.conv_3"]
BLOCKS = {"mixed": FIVES, "mixed_1": FIVES, "mixed_2": FIVES}
BLOCKS |= {"mixed_3": ["conv", "tower.conv", "tower.conv_1", "tower.conv_2"]}
BLOCKS |= {f"mixed_{i}": [*SEVENS, "tower_2.conv"] for i in (4, 5, 6, 7)}
BLOCKS |= {"mixed_8": HALVES, "mixed_9": LASTS, "mixed_10": LASTS}
ENTRIES = {"conv", "tower.conv", "tower_1.conv", "tower_2.conv", "tower_conv", "tower_1_conv", "tower_2_conv"}
INPUTS = dict(zip(BLOCKS, (1, 4, 4, 4, 6, WIDTH + 3, WIDTH + 3, WIDTH + 3, WIDTH + 3, WIDTH + 5, 6), strict=True))
VALID = {
    "conv",
    "conv_1",
    "conv_4",
    "mixed_3.conv",
    "mixed_3.tower.conv_2",
    "mixed_8.tower.conv_1",
    "mixed_8.tower_1.conv_3",
}


def network_that_passes_the_image_on():
    """A network of the published form, its cells the identity of the first channel (its middle pixel); 0 off the way."""
    shapes = dict.fromkeys(("conv", "conv_1", "conv_2", "conv_3", "conv_4"), 1)
    shapes |= {f"{block}.{leaf}": INPUTS[block] if leaf in ENTRIES else 1 for block in BLOCKS for leaf in BLOCKS[block]}
    shapes["conv"] = 3
    tensors = {}
    for name, channels in shapes.items():
        size, block = (3 if name in VALID else 1), name.rpartition(".conv")[0]
        width = WIDTH if block in ("mixed_4", "mixed_5", "mixed_6", "mixed_7") else 1
        weight = np.zeros((width, channels, size, size))
        weight[0, 0, size // 2, size // 2] = "tower" not in name
        parts = (weight, np.zeros(width), np.zeros(width), np.full(width, 1 - inception.EPSILON))
        tensors |= {f"{name}.{part}": value for part, value in zip(inception.PARTS, parts, strict=True)}
    return tensors


@pytest.mark.parametrize("across", [4, 16])
def test_spatial_is_that_of_adm(across):
    """relu(batch norm(W x)) of mixed_6's 1×1 branch: 7 channels of it, last in the order [17, 17, 7] of rows and columns.

    What comes there is pixel (27 + 16 i, 27 + 16 j): strides and the middle of each kernel, and the last of each 3×3
    window of the maxima, since the image rises to the right and downwards.
    Source: openai/guided-diffusion @ 1b61a43, evaluations/evaluator.py: "mixed_6/conv:0", [..., :7], reshape([n, −1]).
    """
    rng, tensors = np.random.default_rng(across), network_that_passes_the_image_on()
    for part, low in (("weight", -3), ("beta", 0), ("mean", -1), ("var", 0.5)):
        shape = tensors[f"mixed_6.conv.{part}"].shape
        tensors[f"mixed_6.conv.{part}"] = rng.uniform(low, 3, shape)
    down, right = np.mgrid[:299, :299] // np.array([20 - across, across])[:, None, None]
    image = (128 + np.minimum(down + right, 127)).astype(np.uint8)
    x = (image[27:300:16, 27:300:16] - 128.0) / 128
    w, beta, mean, var = (tensors[f"mixed_6.conv.{part}"][:7] for part in inception.PARTS)
    expected = np.maximum(0, (x[:, :, None] * w[:, 0, 0, 0] - mean) / np.sqrt(var + 1e-3) + beta)
    spatial = inception_features(inception.fold(tensors), image[None, :, :, None]).spatial
    np.testing.assert_allclose(spatial[0], expected.reshape(17 * 17 * 7), rtol=1e-5, atol=1e-5)


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
