"""Extractors give one row per image, the same in any batch. A missing part raises an error with advice."""

import collections
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.feature_names import feature_names
from score_sde import parallel
from score_sde.importers import import_dinov2, import_inception, inception_path, load_dinov2
from score_sde.metrics import METRICS, FeatureStatistics, Inputs, Reference, dinov2_features, oriented_gradients
from score_sde.metrics.features import EXTRACTORS, get_extractor
from score_sde.metrics.features.dinov2 import stack_blocks
from tests.importers import test_dinov2
from tests.importers.test_inception import BLOCKS, STEM
from tests.importers.test_torch_archive import archive
from tests.multiprocess.launch import ROOT

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
    own = get_extractor("tests.evaluation.own_features:brightness", MESH)
    assert own.digest.startswith("source ") and own.outputs == ("pool",)
    assert own(IMAGES)["pool"][2].tolist() == [np.float32(IMAGES[2].mean()), IMAGES[2].max()]
    named = get_extractor("tests.evaluation.own_features:named", MESH)
    assert named.digest == "weights 7" and named(IMAGES, ("logits", "pool"))["logits"].shape == (5, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("inceptoin", r"--features needs one of .*got 'inceptoin'. Did you mean 'inception'\?"),
        (
            "no_such_module:f",
            r"--features=no_such_module:f: there is no module 'no_such_module'; modules are looked for in",
        ),
        (
            "tests.evaluation.own_features:brightnes",
            r"own_features has no 'brightnes'; its callables are \['brightness', .*Did you mean 'brightness'\?",
        ),
        ("tests.evaluation.own_features:number.x", r"own_features has no 'number.x'; its callables are \[\]"),
        (
            "tests.evaluation.own_features:number",
            r"--features=tests.evaluation.own_features:number needs a callable, got 3",
        ),
        (
            "broken_features:f",
            r"--features=broken_features:f: importing 'broken_features' failed: TypeError: unsupported",
        ),
    ],
)
def test_names_that_are_refused(name, message, tmp_path, monkeypatch):
    (tmp_path / "broken_features.py").write_text("number = 1 + 'a'")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=message):
        get_extractor(name, MESH)


def test_the_names_that_help_shows_are_those_there_are():
    assert feature_names() == f"{', '.join(sorted(EXTRACTORS))}, or a callable as module:attribute"


@pytest.mark.parametrize("name", ["evaluate", "reference", "inspect_data"])
def test_help_loads_no_framework(name):
    code = f"import sys, experiments.{name}; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"


def test_outputs_that_are_not_there():
    pixels = get_extractor("pixels", MESH)
    with pytest.raises(ValueError, match=r"have no 'logits'.*pt_inception-2015-12-05-6726825d.pth and run"):
        pixels(IMAGES, ("pool", "logits"))
    with pytest.raises(ValueError, match=r"have no 'spatial', only \['pool'\]; sfid needs --features=inception"):
        pixels(IMAGES, ("spatial",))
    with pytest.raises(ValueError, match=r"need an array \[5, d\] as 'pool', got shape \(\)"):
        get_extractor("tests.evaluation.own_features:flat", MESH)(IMAGES)


def test_inception_without_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("SCORE_SDE_INCEPTION", str(tmp_path / "none.npz"))
    with pytest.raises(FileNotFoundError, match="score-sde import_inception"):
        get_extractor("inception", MESH)


def test_dinov2_without_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("SCORE_SDE_DINOV2", str(tmp_path / "none.npz"))
    with pytest.raises(FileNotFoundError, match="score-sde import_dinov2"):
        get_extractor("dinov2", MESH)


@pytest.mark.slow
def test_dinov2_of_a_batch_that_devices_do_not_share(tmp_path, monkeypatch):
    """Small random weights, from the bytes of a .pth to the distance, which is fd and never fid."""
    (tmp_path / "weights.pth").write_bytes(test_dinov2.pth(test_dinov2.release()))
    monkeypatch.setenv("SCORE_SDE_DINOV2", str(tmp_path / "weights.npz"))
    import_dinov2(tmp_path / "weights.pth")
    several, one = (get_extractor("dinov2", parallel.make_mesh(n)) for n in (len(jax.devices()), 1))
    pool = several(IMAGES)["pool"]
    alone = np.concatenate([one(IMAGES[i : i + 1])["pool"] for i in range(5)])
    np.testing.assert_allclose(pool, alone, rtol=0, atol=1e-5)
    np.testing.assert_allclose(pool, dinov2_features(stack_blocks(load_dinov2()), IMAGES), rtol=0, atol=1e-5)
    reference = Reference("", "", {"pool": FeatureStatistics.of(pool)}, {"features": "dinov2"}, pool)
    assert list(METRICS["fid"]().compute(Inputs({"pool": pool}, reference, several.name))) == ["fd"]
    for output, advice in (("spatial", "sfid needs --features=inception"), ("logits", "needs --features=inception")):
        with pytest.raises(ValueError, match=f"'dinov2' have no '{output}', only .*{advice}"):
            several.check(("pool", output))
    for wrong in (IMAGES.astype(np.float32), np.zeros((2, 2), np.uint8)):
        with pytest.raises(ValueError, match=r"'dinov2' need images \[b, h, w, 1 or 3\] in 0…255, got"):
            several(wrong)
    changed = test_dinov2.release()
    changed["norm.bias"][0] += 1
    (tmp_path / "weights.pth").write_bytes(test_dinov2.pth(changed))
    import_dinov2(tmp_path / "weights.pth")
    assert len({several.digest, one.digest, get_extractor("dinov2", MESH).digest}) == 2


def brightness_network() -> dict[str, np.ndarray]:
    """A state dict in pytorch-fid's layout: of a plain grey image of level c >= 128, every feature is (c − 128)/128.

    A cell copies the middle pixel of its first channel, and its norm does nothing. There are as few channels as may be.
    """
    firsts = ("branch1x1", "branch3x3", "branch5x5_1", "branch7x7_1", "branch3x3_1", "branch_pool")
    firsts += ("branch3x3dbl_1", "branch7x7dbl_1", "branch7x7x3_1")
    outputs = {"Conv2d_1a_3x3": 32, "Mixed_7b.branch1x1": 2043, "Mixed_7c.branch_pool": 192}
    inputs = {"Conv2d_1a_3x3": 3, "Conv2d_2a_3x3": 32, "Mixed_5b": 1, "Mixed_6b": 6, "Mixed_7b": 6, "Mixed_7c": 2048}
    wide = ("Conv2d_1a_3x3", "Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3", "Mixed_7a.branch3x3_2")
    cells = [*STEM, *(f"{block}.{branch}" for block, branches in BLOCKS.items() for branch in branches)]
    state = {}
    for cell in cells:
        block, _, branch = cell.partition(".")
        number, size = outputs.get(cell, 1), 3 if cell in (*wide, "Mixed_7a.branch7x7x3_4") else 1
        of = inputs.get(block, 4 if branch else 1) if branch in firsts or not branch else 1
        state[f"{cell}.conv.weight"] = np.zeros((number, of, size, size), np.float32)
        state[f"{cell}.conv.weight"][:, 0, size // 2, size // 2] = 1
        for leaf, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1 - 1e-3)):
            state[f"{cell}.bn.{leaf}"] = np.full(number, value, np.float32)
    rng = np.random.default_rng(0)
    return state | {"fc.weight": rng.normal(size=(1008, 197)) / 5, "fc.bias": rng.normal(size=1008)}


def as_torch(tensor):
    """What torch.save writes of `brightness_network`: contiguous tensors."""
    return collections.OrderedDict(
        (name, tensor(value.ravel(), value.shape, tuple(n // value.itemsize for n in value.strides)))
        for name, value in brightness_network().items()
    )


def test_the_inception_score_of_weights_with_logits(tmp_path, monkeypatch):
    """From the bytes of a .pth to the score, against the definition: logits are Wf, without the layer's bias."""
    with pytest.MonkeyPatch.context() as stand_in:  # for PyTorch, which others look for
        (tmp_path / "weights.pth").write_bytes(archive(as_torch, stand_in))
    monkeypatch.setenv("SCORE_SDE_INCEPTION", str(tmp_path / "weights.npz"))
    import_inception(tmp_path / "weights.pth")
    levels = np.random.default_rng(2).integers(128, 256, 20)
    images = np.broadcast_to(levels[:, None, None, None], (20, 8, 8, 3)).astype(np.uint8)
    extractor = get_extractor("inception", MESH)
    features = extractor(images, ("pool", "logits"))
    brightness = (levels - 128.0) / 128
    np.testing.assert_allclose(features["pool"], np.repeat(brightness[:, None], 197, axis=1), atol=1e-5)
    logits = brightness[:, None] * brightness_network()["fc.weight"].sum(axis=1)
    np.testing.assert_allclose(features["logits"], logits, atol=1e-4)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = [np.exp((q * np.log(q / q.mean(axis=0, keepdims=True))).sum(axis=1).mean()) for q in np.split(p, 10)]
    found = METRICS["is"]().compute(Inputs(features, Reference("", "", {}, {}), "inception"))
    result = found["inception_score"]
    np.testing.assert_allclose([result["value"], result["split_sd"]], [np.mean(scores), np.std(scores)], rtol=1e-4)
    assert result["splits"] == 10 and result["value"] > 1.15


def documented_extractor() -> str:
    """The example of docs/evaluation.md."""
    text = (pathlib.Path(__file__).parent.parent.parent / "docs" / "evaluation.md").read_text()
    return re.search(r"```python\n(# dino\.py.*?)```", text, re.DOTALL)[1]


def test_the_documented_example_in_pytorch(tmp_path, monkeypatch):
    """With a small network of other weights in DINOv2's place: [b, 3, 224, 224], normalized, to [b, d]."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    seen = []

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = torch.nn.Conv2d(3, 24, 14, stride=14)

        def forward(self, x):
            seen.append(x)
            return self.patches(x).relu().mean(dim=(2, 3))

    monkeypatch.setattr(torch.hub, "load", lambda *_: Network())
    (tmp_path / "dino.py").write_text(documented_extractor())
    monkeypatch.syspath_prepend(tmp_path)
    extractor = get_extractor("dino:features", MESH)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    images[4] = 128
    pool = extractor(images)["pool"]
    assert pool.shape == (5, 24) and pool.dtype == np.float32 and "dinov2" in extractor.digest
    alone = np.concatenate([extractor(images[i : i + 1])["pool"] for i in range(5)])
    np.testing.assert_allclose(pool, alone, rtol=1e-5, atol=1e-6)
    mean, sd = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert seen[0].shape == (5, 3, 224, 224)
    np.testing.assert_allclose(seen[0][4].mean(dim=(1, 2)), (128 / 255 - mean) / sd, atol=1e-5)


def test_weights_that_pytorch_has_saved(tmp_path):
    """The same tensors as our reader finds them, by the real torch.save."""
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in brightness_network().items()}
    torch.save(state, tmp_path / "weights.pth")
    path = import_inception(tmp_path / "weights.pth", tmp_path / "weights.npz")
    with np.load(path) as file:
        np.testing.assert_array_equal(file["logits.weight"], state["fc.weight"].numpy())
        assert sum(name.endswith(".mean") for name in file.files) == 94


@pytest.mark.slow
@pytest.mark.skipif(not inception_path().is_file(), reason="no weights; score-sde import_inception")
def test_inception_of_a_batch_that_devices_do_not_share():
    """Three images on all devices, and each alone on one."""
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    several = get_extractor("inception", parallel.make_mesh(len(jax.devices())))(images, ("pool", "spatial"))
    one = get_extractor("inception", MESH)
    for i in range(3):
        alone = one(images[i : i + 1], ("pool", "spatial"))
        for name in alone:
            np.testing.assert_allclose(several[name][i], alone[name][0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"need images .* in 0…255, got float32 \[b, 2\]"):
        one(np.zeros((2, 2), np.float32))
