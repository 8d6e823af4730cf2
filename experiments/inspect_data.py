"""Which noise levels suit these data: score-sde inspect_data --config=configs/cifar10/small.py

The command reads every example of --split once. It prints and draws, and writes as JSON:

  what was read, what was passed over, and examples that cannot be used (damaged files)
  σ_data, distances, and classes
  the mismatch to the prior at t_max for each SDE
  exact and near duplicates
  a suggestion, as flags to paste behind score-sde train

With --workdir instead of --config, it also measures the model's loss by noise level. With
--features, it also looks for near duplicates in these features.
"""

import pathlib
from typing import TYPE_CHECKING, Any

from absl import flags

from .feature_names import feature_names
from .flags import CHECKPOINT, EMA, config_or_run, define_config, start, workdir_path

if TYPE_CHECKING:
    from score_sde.experiment import Experiment
    from score_sde.tools.inspect_data import Stream

CONFIG = define_config()
SPLIT = flags.DEFINE_enum("split", "train", ["train", "eval"], "Which of the config's two sources.")
MAX_EXAMPLES = flags.DEFINE_integer(
    "max_examples", None, "How many examples to read, from the first on. Default: all.", lower_bound=2
)
FEATURES = flags.DEFINE_string("features", None, f"Look for near duplicates in these features too: {feature_names()}.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images in a batch, for --features.", lower_bound=1)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Folder for inspect_data.json and the pictures. Default: the workdir, or the working folder without one.",
)
for name in ("workdir", "checkpoint", "ema"):
    flags.declare_key_flag(name)


def main() -> None:
    import jax

    from score_sde.tools.inspect_data import inspect, report
    from score_sde.trained import restored

    from .results import run_noise_levels

    experiment = forgiving(config_or_run("inspect_data", CONFIG.value))
    folder = pathlib.Path(OUTPUT.value) if OUTPUT.value else workdir_path()
    folder.mkdir(parents=True, exist_ok=True)
    result, seen = inspect(experiment, SPLIT.value, MAX_EXAMPLES.value, quiet=jax.process_index() != 0)
    if FEATURES.value is not None:
        result["near_duplicates_by_features"] = by_features(experiment, folder, seen)
    if jax.process_index() == 0:
        print(report(result, of_run=CONFIG.value is None))
    if CONFIG.value is None:
        trained = restored(experiment, workdir_path(), CHECKPOINT.value, EMA.value)
        levels = run_noise_levels(trained, MAX_EXAMPLES.value)
        result["noise_levels"] = {"log_snr": levels.log_snr.tolist(), "loss": levels.mean.tolist()}
    if jax.process_index() == 0:
        write(experiment, result, seen, folder)


def forgiving(experiment: "Experiment") -> "Experiment":
    """The same experiment, which skips examples that cannot be read. The report lists them."""
    config = experiment.config.copy_and_resolve_references()
    config.data.on_error = "skip"
    return type(experiment)(config)


def by_features(experiment: "Experiment", folder: pathlib.Path, seen: "Stream") -> dict[str, Any]:
    """Near duplicates by --features. The features stay in `folder`/references."""
    from score_sde.evaluation.duplicates import near_duplicates_by_features
    from score_sde.metrics.features import get_extractor

    return near_duplicates_by_features(
        experiment,
        SPLIT.value,
        get_extractor(str(FEATURES.value), experiment.mesh),
        folder / "references",
        seen.duplicates,
        passed_over=seen.bad,
        batch_size=BATCH_SIZE.value,
        max_examples=MAX_EXAMPLES.value,
    )


def write(experiment: "Experiment", result: dict[str, Any], seen: "Stream", folder: pathlib.Path) -> None:
    """Writes the numbers as JSON, and the pictures."""
    from score_sde.evaluation.duplicates import draw_pairs
    from score_sde.internal.files import write_json
    from score_sde.plots.datasets import dataset_overview
    from score_sde.tools.inspect_data import HISTOGRAM

    write_json(folder / "inspect_data.json", result, ensure_ascii=False)
    histogram, mismatch = (HISTOGRAM, seen.values), result["prior_mismatch_nats"]
    overview = folder / "inspect_data.png"
    print(dataset_overview(histogram, seen.distances, mismatch, seen.classes, overview, experiment.spec.class_name))
    for name in ("near_duplicates", "near_duplicates_by_features"):
        if result.get(name):
            pairs = draw_pairs(experiment, SPLIT.value, result[name], folder / f"{name}.png")
            print(pairs or f"No pair of {result[name]['of']} correlates above {result[name]['threshold']}: no picture.")


if __name__ == "__main__":
    start(main, required=())
