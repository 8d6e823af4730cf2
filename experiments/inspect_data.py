"""Which noise levels suit these data: python -m experiments.inspect_data --config=configs/cifar10/small.py

Reads --split once; prints, draws and writes (JSON) σ_data, distances, prior mismatch at t_max for each SDE, classes, exact
duplicates, and a suggestion as overrides of the config. With --workdir instead of --config, also the model's loss by noise
level.
"""

import json
import pathlib

from absl import flags
from ml_collections import config_flags

from experiments.flags import CHECKPOINT, EMA, start, workdir_path

CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py[:variant] with get_config().")
SPLIT = flags.DEFINE_enum("split", "train", ["train", "eval"], "Which of the config's two sources.")
MAX_EXAMPLES = flags.DEFINE_integer("max_examples", None, "Only the first so many.", lower_bound=2)
OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for inspect_data.json and .png; the workdir, or here, if not given."
)
for name in ("workdir", "checkpoint", "ema"):
    flags.declare_key_flag(name)


def main() -> None:
    from score_sde.experiment import Experiment, from_workdir
    from score_sde.files import write_text
    from score_sde.plots.datasets import dataset_overview
    from score_sde.runs.inspection import HISTOGRAM, inspect, pair_distances, report
    from score_sde.runs.measures import run_noise_levels

    if (CONFIG.value is None) == (flags.FLAGS.workdir is None):
        raise ValueError("inspect_data needs --config=FILE.py, or --workdir=DIR of a run; one of the two.")
    experiment = from_workdir(workdir_path()) if CONFIG.value is None else Experiment(CONFIG.value)
    result, seen = inspect(experiment, SPLIT.value, MAX_EXAMPLES.value)
    print(report(result))
    if CONFIG.value is None:
        levels = run_noise_levels(experiment, workdir_path(), MAX_EXAMPLES.value, CHECKPOINT.value, EMA.value)
        result["noise_levels"] = {"log_snr": levels.log_snr.tolist(), "loss": levels.mean.tolist()}
    folder = pathlib.Path(OUTPUT.value) if OUTPUT.value else workdir_path()
    write_text(folder / "inspect_data.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    mismatch, distances = result["prior_mismatch_nats"], pair_distances(seen.sample)
    picture = folder / "inspect_data.png"
    print(dataset_overview((HISTOGRAM, seen.values), distances, mismatch, seen.classes, picture))


if __name__ == "__main__":
    start(main, required=())
