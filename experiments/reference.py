"""Reference statistics of a data set: python -m experiments.reference --config=configs/cifar10/small.py --output=cifar10.npz

Every image of --split once, as published (no flips; cropped as the config says), by --features. The same command goes on
where it was killed. --config or, for the config of a run, --workdir.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from experiments.flags import start, workdir_path

CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py[:variant] with get_config().")
SPLIT = flags.DEFINE_enum("split", "train", ["train", "eval"], "Which of the config's two sources.")
OUTPUT = flags.DEFINE_string("output", None, "The .npz to write; reference_SPLIT_FEATURES.npz if not given.")
FEATURES = flags.DEFINE_string(
    "features", "inception", "inception, oriented_gradients, pixels, or a callable as module:attribute."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images at once, over all devices.", lower_bound=1)
MAX_EXAMPLES = flags.DEFINE_integer("max_examples", None, "Only the first so many.", lower_bound=2)
KEEP_FEATURES = flags.DEFINE_bool("keep_features", False, "Features go into the file too, for kid and prdc.")
flags.declare_key_flag("workdir")


def main() -> None:
    from score_sde.experiment import Experiment, from_workdir
    from score_sde.runs.extractors import get_extractor
    from score_sde.runs.references import make_reference

    if (CONFIG.value is None) == (flags.FLAGS.workdir is None):
        raise ValueError("reference needs --config=FILE.py, or --workdir=DIR for the config of a run; one of the two.")
    experiment = from_workdir(workdir_path()) if CONFIG.value is None else Experiment(CONFIG.value)
    extractor = get_extractor(FEATURES.value, experiment.mesh)
    name = f"reference_{SPLIT.value}_{FEATURES.value.replace(':', '_')}.npz"
    reference = make_reference(
        experiment,
        SPLIT.value,
        extractor,
        pathlib.Path(OUTPUT.value or name),
        batch_size=BATCH_SIZE.value,
        max_examples=MAX_EXAMPLES.value,
        keep_features=KEEP_FEATURES.value,
    )
    print(f"{reference.num_examples} images of {SPLIT.value}, digest {reference.digest[:16]}, in {reference.name}")


if __name__ == "__main__":
    start(main, required=())
