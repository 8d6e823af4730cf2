"""The data advisor on data whose moments, distances, duplicates and divergences are known."""

import math
import re
import shlex

import absl.flags
import numpy as np
import pytest
from ml_collections import ConfigDict, config_flags

from configs import base, quickstart
from score_sde.experiment import Experiment
from score_sde.plots.datasets import dataset_overview
from score_sde.run_config import apply_override
from score_sde.sdes import SDES
from score_sde.tools import inspect_data as inspection
from score_sde.tools.inspect_data import as_overrides, inspect, pair_distances, prior_mismatch, report
from tests.data.test_folder import write

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 4, 4, 3), np.uint8)
IMAGES[7] = IMAGES[31] = IMAGES[2]


@pytest.fixture
def config(tmp_path):
    """Forty images with labels, three of them the same."""
    np.savez(tmp_path / "data.npz", x=IMAGES, label=np.arange(40) % 4)
    source = {"name": "array", "path": str(tmp_path / "data.npz"), "label_key": "label"}
    config = base.get_config()
    config.data = ConfigDict({"train": source, "eval": dict(source), "augment": {"random_flip": True}})
    config.sde = ConfigDict({"name": "ve", "sigma_min": 0.01, "sigma_max": 50.0})
    return config


def test_every_number_of_known_data(config, monkeypatch):
    result, seen = inspect(Experiment(config), quiet=True)
    x = IMAGES.astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(result["channel_mean"], x.mean(axis=(0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(result["channel_sd"], x.std(axis=(0, 1, 2)), atol=1e-6)
    assert (
        abs(result["sigma_data"] - x.std()) < 1e-6 and abs(result["root_mean_square"] - np.sqrt((x**2).mean())) < 1e-6
    )
    rows = x.reshape(40, -1)
    distances = [np.linalg.norm(a - b) for i, a in enumerate(rows) for b in rows[:i]]
    assert abs(result["largest_distance"] - max(distances)) < 1e-5 and result["pairs"] == 780
    assert abs(np.sort(pair_distances(rows.astype(np.float32))) - np.sort(distances)).max() < 1e-3
    assert result["classes"] == {0: 10, 1: 10, 2: 10, 3: 10} and seen.values.sum() == x.size
    assert result["duplicates"] == {"repeated": 2, "groups": [[2, 7, 31]]}
    monkeypatch.setattr(inspection, "SAMPLED", 10)
    part, _ = inspect(Experiment(config), max_examples=35, quiet=True)
    assert part["examples"] == 35 and part["pairs"] == 45 and sum(part["classes"].values()) == 35


@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve", "edm", "ddpm"])
def test_prior_mismatch_is_that_of_two_gaussians(name):
    """Against the general formula with whole covariances."""
    sample, sde = (
        RNG.normal(3.0, 40.0, (200, 5)).astype(np.float32) @ RNG.normal(size=(5, 5)).astype(np.float32),
        SDES[name](),
    )
    alpha, sigma = float(sde.alpha(float(sde.t_max))), float(sde.prior_std())
    cov = alpha**2 * np.cov(sample.astype(np.float64).T) + sigma**2 * np.eye(5)
    mean = alpha * sample.astype(np.float64).mean(axis=0)
    wanted = 0.5 * (np.trace(cov) / sigma**2 + mean @ mean / sigma**2 - 5 - np.linalg.slogdet(cov / sigma**2)[1])
    np.testing.assert_allclose(prior_mismatch(sde, sample), wanted, rtol=1e-6)


def test_suggestions_are_overrides_of_this_config(config):
    experiment = Experiment(config)
    result, _ = inspect(experiment, quiet=True)
    fields = {field: rule["value"] for field, rule in result["suggestion"].items()}
    assert set(fields) == {"parameterization.sigma_data", "sde.sigma_max"}  # its times are uniform
    assert abs(fields["sde.sigma_max"] / result["largest_distance"] - 1) < 0.01
    for override in as_overrides(result["suggestion"], prefix=""):
        apply_override(config, override)
    assert Experiment(config).sde.sigma_max == fields["sde.sigma_max"]
    text = report(result)
    assert result["overrides"] == as_overrides(result["suggestion"], prefix="")
    assert (
        "--config.sde.sigma_max=" in text
        and "2 examples repeat another one exactly" in text
        and "4 classes with 10" in text
    )


def test_log_normal_times_follow_the_scale_of_the_data():
    """The digits' σ_data is 0.75: half as much again as EDM's 0.5."""
    result, seen = inspect(Experiment(quickstart.get_config()), quiet=True)
    mean = result["suggestion"]["objective.time_sampler.mean"]["value"]
    assert abs(result["sigma_data"] - 0.75) < 0.01 and abs(mean - (-1.2 + math.log(result["sigma_data"] / 0.5))) < 1e-3
    assert result["suggestion"]["objective.weighting.sigma_data"]["value"] == round(result["sigma_data"], 4)
    config = quickstart.get_config()
    config.sde = ConfigDict({"name": "edm", "sigma_max": 80.0})
    rules = inspection.suggest(Experiment(config), 0.75, 10.0)
    assert rules["sde.sigma_max"]["value"] == 120 and seen.num_examples == 1500


@pytest.mark.parametrize("of_run", [False, True])
def test_the_last_line_can_be_pasted_behind_train(monkeypatch, of_run):
    """As a shell and absl read it; above it the rules, and, for the config of a run, that it is for a new one."""
    result, _ = inspect(Experiment(quickstart.get_config()), quiet=True, max_examples=100)
    *above, line = report(result, of_run).splitlines()
    argv = ["train", "--config=configs/quickstart.py", *shlex.split(line)]
    monkeypatch.setattr("sys.argv", argv)  # where ml_collections looks for fields of the config
    values = absl.flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values)
    assert values(argv) == ["train"]  # nothing is left over
    assert (
        Experiment(holder.value).objective.time_sampler.mean
        == result["suggestion"]["objective.time_sampler.mean"]["value"]
    )
    assert holder.value.parameterization.sigma_data == result["suggestion"]["parameterization.sigma_data"]["value"]
    assert (
        above[-1]
        == f"{'For a new run, in another --workdir, to' if of_run else 'To'} be pasted behind score-sde train:"
    )
    assert any(text.startswith("  objective.time_sampler.mean") and "EDM's −1.2" in text for text in above)


def test_examples_that_cannot_be_used_are_listed_before_training(tmp_path):
    """The numbers are those of the others."""
    for i in range(12):
        write(tmp_path / f"{'cat' if i < 9 else 'dog'}/{i:02d}.png", IMAGES[i])
    whole = inspect(on_folder(tmp_path), quiet=True)[0]
    assert whole["unusable"]["number"] == 0 and "that cannot be used" not in report(whole)
    (tmp_path / "cat/00.png").write_bytes(b"broken")
    write(tmp_path / "dog/10.png", np.zeros((5, 4, 3)))
    (tmp_path / "notes.txt").write_text("")
    result, seen = inspect(on_folder(tmp_path), quiet=True)
    assert result["examples"] == 10 and result["classes"] == {0: 8, 1: 2} and list(seen.bad) == [0, 10]
    rest = np.delete(IMAGES[:12], [0, 10], axis=0).astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(result["channel_mean"], rest.mean(axis=(0, 1, 2)), atol=1e-6)
    text = report(result)
    for part in (
        r"data.train: 12 examples of shape \(4, 4, 3\), 256 levels, 2 classes; in .*; passed over: 1 of other kinds \(1 .txt\)",
        r"examples that cannot be used: 2; training ends at the first unless data.on_error=skip\n",
        r"  0: Image .*cat/00.png cannot be read",
        r"  10: FolderSource needs images of one size, got \(5, 4, 3\) in .*dog/10.png",
        r"2 classes with 2 \('dog'\) to 8 \('cat'\) examples",
    ):
        assert re.search(part, text), part


def on_folder(folder):
    config = base.get_config()
    source = {"name": "folder", "path": str(folder), "labels": True}
    config.data = ConfigDict({"train": source, "eval": dict(source), "augment": {}})
    return Experiment(config)


def test_the_picture(tmp_path, config):
    result, seen = inspect(Experiment(config), quiet=True)
    arguments = (inspection.HISTOGRAM, seen.values), pair_distances(seen.sample), result["prior_mismatch_nats"]
    assert dataset_overview(*arguments, seen.classes, tmp_path / "a.png").stat().st_size > 10_000
    assert dataset_overview(*arguments, {}, tmp_path / "b.png").is_file()
