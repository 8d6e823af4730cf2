"""Two real trainings of an MLP, through the command line."""

import os
import pathlib
import subprocess
import sys

from score_sde.sweeps.metric import last_step
from score_sde.sweeps.spec import load_sweep

SWEEP = """
def get_sweep():
    return {
        "config": "configs/density2d.py:rings",
        "axes": {"sde": [{"name": "vp", "beta_min": 0.1, "beta_max": 20.0}, {"name": "ve", "sigma_max": 50.0}]},
        "overrides": {
            "network": {"name": "mlp", "width": 16, "depth": 1},
            "training.num_steps": 20, "training.log_every": 5, "training.checkpoint_every": 10, "training.batch_size": 32,
            "training.eval_every": 20, "training.eval_batch_size": 100,
            "data.train.num_examples": 200, "data.eval.num_examples": 100,
        },
        "metric": "eval/eps_error",
    }
"""


def sweep(tmp_path, *flags):
    (tmp_path / "sweep.py").write_text(SWEEP)
    words = [f"--sweep={tmp_path / 'sweep.py'}", f"--workdir={tmp_path / 'runs'}", *flags]
    # the conftest's strict promotion is not in the child's environment
    return subprocess.run(
        [sys.executable, "-m", "experiments.sweep", *words], capture_output=True, text=True, env=os.environ, check=False
    )


def test_a_real_sweep(tmp_path):
    done = sweep(tmp_path, "--max_parallel=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| finished | 20/20") == 2 and (tmp_path / "runs" / "metric.png").is_file()
    assert [last_step(path) for path in (tmp_path / "runs" / "trials").iterdir()] == [20, 20]


def test_the_sweeps_of_the_repository_can_be_read():
    for path in pathlib.Path("configs/sweeps").glob("*.py"):
        if path.name != "__init__.py":
            assert load_sweep(str(path)).axes
    assert load_sweep("configs/sweeps/density2d_random.py:optuna").search.num_trials == 16
