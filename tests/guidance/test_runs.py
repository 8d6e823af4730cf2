"""Rules that name another run: whose parameters they get, and what they refuse. Nothing is trained."""

import contextlib

import jax
import numpy as np
import pytest

from configs import quickstart
from score_sde.catalogues import CATALOGUES
from score_sde.config import apply_overrides
from score_sde.denoising.classifier import BoundClassifier
from score_sde.denoising.denoiser import BoundDenoiser
from score_sde.experiment import Experiment
from score_sde.run_config import from_workdir, write_config
from score_sde.training.saving.checkpoints import Checkpoints


def begun(folder, task):
    """A run with a checkpoint whose averages are 0 and whose raw parameters are 1. Returns (folder, parameters)."""
    config = quickstart.get_config()
    config.network.update({"channels": 8, "channel_multipliers": (1,), "attention_resolutions": ()})
    config.mesh.num_devices = 1
    if task == "classification":
        written = (("task", task), ("objective", "cross_entropy"), ("network", "encoder"), ("network.channels", "8"))
        written += (("network.attention_resolutions", "()"),)
        apply_overrides(config, written, CATALOGUES)
    experiment = Experiment(config)
    with jax.numpy_dtype_promotion("standard"):
        state = experiment.recipe.init_state()
    raw, averaged = (jax.tree.map(lambda leaf, n=n: np.full_like(leaf, n), state.params) for n in (1.0, 0.0))
    state = state._replace(params=raw, ema=dict.fromkeys(state.ema, averaged))
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
        checkpoints.save(state, {})
    write_config(experiment, folder)
    return folder


@pytest.fixture(scope="module")
def denoising(tmp_path_factory):
    return begun(tmp_path_factory.mktemp("denoising"), "denoising")


def rule(workdir, name, other, **fields):
    given = {"name": name, "workdir": str(other), **fields}
    return from_workdir(workdir, [f"sampling.guidance={given!r}"]).guidance[0]


@pytest.mark.slow
def test_autoguidance_gets_the_average_that_it_names(denoising):
    for average, value in ((None, 0.0), ("none", 1.0)):
        weak = rule(denoising, "autoguidance", denoising, scale=2.0, average=average).weak
        assert isinstance(weak, BoundDenoiser)
        assert all(np.all(np.asarray(leaf) == value) for leaf in jax.tree.leaves(weak.params))
    with pytest.raises(ValueError, match="average .* needs one of .* got '7'"):
        rule(denoising, "autoguidance", denoising, average="7")


def test_a_classifier_is_another_run(denoising, tmp_path):
    other = begun(tmp_path, "classification")
    assert isinstance(rule(denoising, "classifier", other, label=3).classifier, BoundClassifier)
    with pytest.raises(
        ValueError, match="Autoguidance needs a run with task.name=denoising.* trained a BoundClassifier"
    ):
        rule(denoising, "autoguidance", other)
    with pytest.raises(ValueError, match="needs a run with task.name=classification.* trained a BoundDenoiser"):
        rule(denoising, "classifier", denoising)


def test_a_folder_without_a_run(denoising, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No config.json in .*nothing, which a rule of guidance names"):
        rule(denoising, "autoguidance", tmp_path / "nothing")
