"""LPIPS: distances and activations against its authors' code, its weights' import, and errors."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import parallel
from score_sde.importers import import_lpips, load_lpips, lpips, lpips_path
from score_sde.metrics import lpips_distance, lpips_features
from score_sde.metrics.features import get_extractor
from tests.importers.test_dinov2 import pth

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / "golden" / "metrics" / "lpips.npz")
SIZES = ("32x32", "64x64", "48x20")
CHANNELS = {
    0: 64,
    2: 64,
    5: 128,
    7: 128,
    10: 256,
    12: 256,
    14: 256,
    17: 512,
    19: 512,
    21: 512,
    24: 512,
    26: 512,
    28: 512,
}


def in_model_units(images_u8):
    return images_u8.astype(np.float32) / 127.5 - 1


@pytest.fixture(scope="module")
def weights():
    """The golden's: He's normal kernels, biases of a tenth, and learned weights in [0, 1), in this order."""
    rng, seen, tensors = np.random.default_rng(0), 3, {}
    for number, channels in CHANNELS.items():
        kernel = rng.standard_normal((channels, seen, 3, 3), np.float32) * np.sqrt(2 / (9 * seen))
        tensors[f"features.{number}.weight"] = kernel.astype(np.float32)
        tensors[f"features.{number}.bias"] = rng.standard_normal(channels, np.float32) * np.float32(0.1)
        seen = channels
    return tensors | {f"lin{i}": rng.random(c, np.float32) for i, c in enumerate((64, 128, 256, 512, 512))}


@pytest.mark.few(1)
@pytest.mark.parametrize("size", ["32x32", pytest.param("64x64", marks=pytest.mark.slow), "48x20"])
def test_distances_and_activations_equal_the_authors(weights, size):
    a, b = (GOLDEN[f"{size}/{name}"] for name in "ab")
    distance = lpips_distance(weights, in_model_units(a), in_model_units(b))
    np.testing.assert_allclose(distance, GOLDEN[f"{size}/distance"], rtol=1e-5)
    np.testing.assert_allclose(lpips_features(weights, a), GOLDEN[f"{size}/pooled"], rtol=0, atol=2e-6)


@pytest.mark.slow
def test_a_distance_is_symmetric_and_zero_of_an_image_to_itself(weights):
    a, b = (in_model_units(GOLDEN[f"32x32/{name}"]) for name in "ab")
    np.testing.assert_allclose(lpips_distance(weights, a, b), lpips_distance(weights, b, a), rtol=1e-6)
    assert np.all(lpips_distance(weights, a, a) == 0)


@pytest.mark.slow
def test_a_gradient_where_a_place_is_off_in_every_channel(weights):
    """There |φ| has no derivative."""
    off = dict(weights) | {"features.28.bias": np.full(512, -1e6, np.float32)}
    a, b = (jnp.asarray(in_model_units(GOLDEN[f"32x32/{name}"][:1])) for name in "ab")
    gradient = jax.grad(lambda x: lpips_distance(off, x, b).sum())(a)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_grey_images_are_repeated(weights):
    grey = GOLDEN["32x32/a"][..., :1]
    one, three = (lpips_features(weights, x) for x in (grey, np.repeat(grey, 3, axis=-1)))
    np.testing.assert_allclose(one, three, rtol=0, atol=1e-6)


def test_images_that_it_cannot_take(weights):
    images = np.zeros((1, 16, 16, 3), np.float32)
    with pytest.raises(ValueError, match=r"one shape, got \(1, 16, 16, 3\) and \(1, 16, 16, 1\)"):
        lpips_distance(weights, images, images[..., :1])
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        lpips_features(weights, np.zeros((1, 16, 16, 2), np.uint8))
    with pytest.raises(ValueError, match="at least 16×16, got 15×16; enlarge them"):
        lpips_features(weights, np.zeros((1, 15, 16, 3), np.uint8))


def files(folder, weights, classifier=True):
    """The two public files, with these weights."""
    network = {name: value for name, value in weights.items() if name.startswith("features")}
    if classifier:
        network["classifier.6.bias"] = np.zeros(4, np.float32)
    linear = {f"lin{i}.model.1.weight": weights[f"lin{i}"].reshape(1, -1, 1, 1) for i in range(5)}
    for name, tensors in (("vgg16.pth", network), ("vgg.pth", linear)):
        (folder / name).write_bytes(pth(tensors))
    return folder / "vgg16.pth", folder / "vgg.pth"


def test_from_the_files_to_features(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("SCORE_SDE_LPIPS", str(tmp_path / "weights.npz"))
    with pytest.raises(FileNotFoundError, match="score-sde import_lpips"):
        get_extractor("lpips", parallel.make_mesh(1))
    assert import_lpips(*files(tmp_path, weights)) == lpips_path() == tmp_path / "weights.npz"
    loaded = load_lpips()
    assert loaded.keys() == weights.keys() and all(np.array_equal(loaded[name], weights[name]) for name in weights)
    several, one = (get_extractor("lpips", parallel.make_mesh(n)) for n in (len(jax.devices()), 1))
    images = np.concatenate([GOLDEN["32x32/a"], GOLDEN["32x32/b"]])[:5]
    pool = several(images)["pool"]
    np.testing.assert_allclose(pool[:3], GOLDEN["32x32/pooled"], rtol=0, atol=2e-6)
    alone = np.concatenate([one(images[i : i + 1])["pool"] for i in range(5)])
    np.testing.assert_allclose(pool, alone, rtol=0, atol=2e-6)
    import_lpips(*files(tmp_path, weights | {"lin0": weights["lin0"] / 2}))
    assert len({several.digest, one.digest, get_extractor("lpips", parallel.make_mesh(1)).digest}) == 2


def test_files_of_something_else_are_refused(weights, tmp_path, monkeypatch):
    cut = {name: value for name, value in weights.items() if name != "features.28.bias"}
    for wrong in (cut, weights | {"features.0.bias": np.zeros(3, np.float32)}, weights | {"lin4": -weights["lin4"]}):
        with pytest.raises(
            ValueError, match=r"not hold the weights of LPIPS with VGG16: .*(features.28|features.0|lin4)"
        ):
            import_lpips(*files(tmp_path, wrong), tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
    vgg16, linear = files(tmp_path, weights)
    monkeypatch.setattr(lpips, "LINEAR", linear.as_uri())
    with pytest.raises(ValueError, match=r"vgg\.pth has SHA-256 [0-9a-f]{64}, and should have a78928a0"):
        import_lpips(vgg16, None, tmp_path / "out.npz")
    monkeypatch.setattr(lpips, "LINEAR", (tmp_path / "none.pth").as_uri())
    with pytest.raises(OSError, match=r"none\.pth could not be fetched: .*get the file in another way"):
        import_lpips(vgg16, None, tmp_path / "out.npz")
