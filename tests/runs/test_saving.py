"""What a run saves, and when: every interval at its edges, and batches that cannot be read."""

import shutil

import jax
import numpy as np
import pytest

from score_sde.data import ArraySource
from score_sde.experiment import Experiment
from score_sde.runs import read_state, run_training
from score_sde.runs import training as training_module
from score_sde.training.saving.verification import steps_on_disk
from tests.runs.test_training import on_arrays

NEVER = {"eval_every": 0, "sample_every": 0}


@pytest.fixture(autouse=True, scope="module")
def ordinary_promotion():
    """Optax counts steps in integers and raises floats to them, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "points.npz"
    np.savez(path, x=np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32))
    return path


def on_points(path, **training):
    config = on_arrays(path, "points")
    config.training.update(NEVER | training)
    return config


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("training", "kept"),
    [
        ({"checkpoint_every": 0, "log_every": 100}, [4]),
        ({"checkpoint_every": 100, "keep_every": 100}, [4]),
        ({"checkpoint_every": 3}, [3, 4]),
        ({"checkpoint_every": 1, "keep_checkpoints": 1, "keep_every": 3}, [3, 4]),
        ({"checkpoint_every": 1, "keep_checkpoints": None}, [1, 2, 3, 4]),
        ({"checkpoint_every": 0, "num_steps": 1}, [1]),
    ],
)
def test_the_last_step_is_always_saved(training, kept, points, tmp_path):
    run_training(Experiment(on_points(points, **training)), tmp_path, quiet=True)
    assert steps_on_disk(tmp_path) == kept


@pytest.mark.parametrize("field", ["num_steps", "log_every", "keep_checkpoints", "keep_every", "batch_size"])
def test_what_cannot_be_zero_is_refused(field, points, tmp_path):
    with pytest.raises(ValueError, match=f"training.{field}.* got 0"):
        run_training(Experiment(on_points(points, **{field: 0})), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_disk_that_is_full_is_told_before_the_first_step(points, tmp_path, monkeypatch):
    monkeypatch.setattr(training_module, "compile_step", None)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 9000, 9000))
        with pytest.raises(OSError, match=r"A checkpoint and its logs take about 1.1 MB, .* has 0.0 MB left"):
            run_training(Experiment(on_points(points)), tmp_path, quiet=True)
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").touch()
    with pytest.raises(OSError, match="needs to be a folder of checkpoints, got a file"):
        run_training(Experiment(on_points(points)), tmp_path, quiet=True)


def test_a_batch_that_cannot_be_read_costs_no_step(points, tmp_path, monkeypatch):
    """The steps before it are saved although no checkpoint is due; once mended, the run ends as if nothing had been."""
    config = on_points(points, num_steps=6, checkpoint_every=100)
    whole = run_training(Experiment(config), tmp_path / "whole", quiet=True)
    seen = [set(batch["index"].tolist()) for batch in Experiment(config).train_batches.iterate(0, 4)]
    broken = min(seen[3] - seen[0] - seen[1] - seen[2])
    gather = ArraySource.gather

    def damaged(self, index):
        if broken in index:
            raise OSError(f"image {broken} is cut off.")
        return gather(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(ArraySource, "gather", damaged)
        for said in ("Step 3 is saved", "The newest checkpoint is as it was"):
            with pytest.raises(
                ValueError, match=f"Batch 4 of training cannot be read: image {broken} .* {said}; repair"
            ):
                run_training(Experiment(config), tmp_path / "run", quiet=True)
            assert int(read_state(Experiment(config), tmp_path / "run").step) == 3
    assert bits(run_training(Experiment(config), tmp_path / "run", quiet=True)) == bits(whole)
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "run")]
    assert metrics[0] == metrics[1]
