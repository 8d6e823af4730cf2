"""Near duplicates: usual changes of an image hide no duplicate, and similar colours make none."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import base
from score_sde.evaluation import duplicates
from score_sde.evaluation.duplicates import (
    draw_pairs,
    near_duplicates,
    near_duplicates_by_features,
    summary,
    thumbnails,
)
from score_sde.experiment import Experiment
from score_sde.metrics.features import get_extractor
from score_sde.tools.inspect_data import inspect, report
from tests.multiprocess.launch import ROOT


def scenes(count: int) -> np.ndarray:
    """Smooth pictures of 40×48 pixels with three colours of their own; the first six are nearly one blue."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 5, 6, 3), np.uint8)
    coarse[:6] = np.clip(np.array([60, 120, 220]) + rng.normal(0, 6, (6, 5, 6, 3)), 0, 255)
    return np.stack([np.asarray(Image.fromarray(c).resize((48, 40), Image.Resampling.BICUBIC)) for c in coarse])


def recompressed(image: np.ndarray, path) -> np.ndarray:
    Image.fromarray(image).save(path, quality=60)
    return np.asarray(Image.open(path))


@pytest.fixture
def experiment(tmp_path):
    """Sixty scenes: 50 a recompressed 20, 51 a darker 21, 52 a shifted 22, 53 a captioned 23, and 54 the same as 24."""
    images = scenes(60)
    images[50] = recompressed(images[20], tmp_path / "a.jpg")
    images[51] = np.clip(0.7 * images[21].astype(float) + 10, 0, 255).astype(np.uint8)
    images[52] = np.roll(images[22], 1, axis=1)
    images[53] = images[23]
    images[53, -3:, 4:14] = 255
    images[54] = images[24]
    np.savez(tmp_path / "data.npz", x=images)
    config = base.get_config()
    source = {"name": "array", "path": str(tmp_path / "data.npz")}
    config.data = ConfigDict({"train": source, "eval": dict(source), "augment": {}})
    return Experiment(config)


def likely(found):
    return {tuple(p["examples"]) for p in found["closest"] if p["correlation"] >= duplicates.LIKELY}


WANTED = {(20, 50), (21, 51), (22, 52), (23, 53)}


def test_duplicates_of_every_kind_are_found_and_nothing_else(experiment, tmp_path):
    result, seen = inspect(experiment, quiet=True)
    found = result["near_duplicates"]
    assert likely(found) == WANTED and found["likely"] == 4
    assert result["duplicates"] == {"repeated": 1, "groups": [[24, 54]]} and found["compared"] == 59
    assert f"4 pairs correlate above {duplicates.LIKELY}" in report(result)
    path = draw_pairs(experiment, "train", found, tmp_path / "pairs.png")
    assert np.asarray(Image.open(path)).shape[1] == 4 + 4 * (96 + 4)  # four pairs, and none of those that do not pass
    none = found | {"closest": [pair | {"correlation": 0.9} for pair in found["closest"]], "likely": 0}
    assert draw_pairs(experiment, "train", none, path) is None and not path.exists()
    half, _ = inspect(experiment, max_examples=52, quiet=True)
    assert likely(half["near_duplicates"]) == {(20, 50), (21, 51)}
    assert seen.thumbnails.shape == (59, 16 * 16 * 3)


def test_by_features(experiment, tmp_path):
    extractor = get_extractor("oriented_gradients", experiment.mesh)
    found = near_duplicates_by_features(experiment, "train", extractor, tmp_path, [[24, 54]], batch_size=25, quiet=True)
    assert {tuple(pair["examples"]) for pair in found["closest"][:4]} == WANTED
    assert found["likely"] >= 3 and found["compared"] == 59 and "features of oriented_gradients" in summary(found)
    assert not any(54 in pair["examples"] for pair in found["closest"])


def test_a_part_of_many_is_compared(experiment, monkeypatch):
    monkeypatch.setattr(duplicates, "MOST", 30)
    found = inspect(experiment, quiet=True)[0]["near_duplicates"]
    assert 28 <= found["compared"] <= 30 and likely(found) <= WANTED


@pytest.mark.parametrize("size", [5, 16, 20, 24, 64])
def test_thumbnails_are_averages_without_the_colour(size):
    images = np.random.default_rng(size).integers(0, 256, (2, size, 64, 3), np.uint8)
    small = thumbnails(images).reshape(2, min(size, 16), 16, 3)
    fine = np.repeat(images.astype(float), 16, axis=1)  # 16 · size rows, of which each thumbnail's row takes as many
    rows = fine.reshape(2, min(size, 16), -1, 64, 3).mean(axis=2)
    wanted = rows.reshape(2, min(size, 16), 16, 4, 3).mean(axis=3)
    wanted -= wanted.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(small, wanted, atol=1e-3)


def test_data_without_images_or_pairs():
    from configs import density2d

    result, _ = inspect(Experiment(density2d.get_config("moons")), max_examples=50, quiet=True)
    assert result["near_duplicates"] is None and "likely duplicates" not in report(result)
    alone = near_duplicates(np.ones((1, 4), np.float32), np.array([7]), "thumbnails")
    assert alone["closest"] == [] and summary(alone).startswith("0 pairs")


@pytest.mark.slow
def test_the_command(tmp_path):
    """All files, with features; the JSON is what it says."""
    flags = ["--config=configs/quickstart.py", f"--output={tmp_path}", "--max_examples=120", "--split=eval"]
    command = [sys.executable, "-m", "experiments.inspect_data", *flags, "--features=oriented_gradients"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "inspect_data.json").read_text())
    assert result["near_duplicates"]["compared"] == 120 == result["near_duplicates_by_features"]["compared"]
    for name in ("near_duplicates", "near_duplicates_by_features"):
        assert (tmp_path / f"{name}.png").is_file() == (result[name]["likely"] > 0)
        assert ("No pair of" in run.stdout) or result[name]["likely"]
    assert (tmp_path / "inspect_data.png").is_file()
    assert run.stdout.count("likely duplicates if these data are like CIFAR-10, on which the threshold was set") == 2
    flags = run.stdout.split("To be pasted behind score-sde train:\n")[1].splitlines()[0]
    assert shlex.split(flags) == [f"--config.{override}" for override in result["overrides"]]
