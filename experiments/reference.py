"""Reference statistics of a data set: score-sde reference --config=configs/cifar10/small.py --output=cifar10.npz

The command computes --features of every image of --split once, as published: without
flips, and cropped as the config says. Instead of --config, --workdir takes the config of a
run. If the command is interrupted, run it again: it continues where it stopped.

--compare=A.npz,B.npz prints the distances between two references instead.
"""

import pathlib

from absl import flags

from .feature_names import feature_names
from .flags import config_or_run, define_config, start

CONFIG = define_config()
SPLIT = flags.DEFINE_enum("split", "train", ["train", "eval"], "Which of the config's two sources.")
OUTPUT = flags.DEFINE_string("output", None, "The .npz file to write. Default: reference_SPLIT_FEATURES.npz.")
FEATURES = flags.DEFINE_string("features", "inception", f"{feature_names()}.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images in a batch, over all devices.", lower_bound=1)
MAX_EXAMPLES = flags.DEFINE_integer(
    "max_examples", None, "How many images to take, from the first on. Default: all.", lower_bound=2
)
KEEP_FEATURES = flags.DEFINE_bool("keep_features", False, "Store the features in the file too. kid and prdc need them.")
COMPARE = flags.DEFINE_list(
    "compare", None, "Print the distances of two .npz files of score-sde reference, EDM, ADM or pytorch-fid."
)
flags.declare_key_flag("workdir")


def main() -> None:
    if COMPARE.value is None:
        make()
    else:
        compare([pathlib.Path(name) for name in COMPARE.value])


def compare(paths: list[pathlib.Path]) -> None:
    """Prints the distances between two references."""
    from score_sde.evaluation.ledger import with_error
    from score_sde.evaluation.reference_distances import reference_distances
    from score_sde.evaluation.references import load_reference
    from score_sde.training.logs.stages import stage

    if len(paths) != 2 or CONFIG.value is not None or flags.FLAGS.workdir is not None:
        raise ValueError(f"--compare needs two files and neither --config nor --workdir, got {COMPARE.value}.")
    references = [load_reference(path) for path in paths]
    for reference in references:
        count = "an unknown number of" if reference.num_examples is None else f"{reference.num_examples:,}"
        print(f"{reference.name}: {count} images, digest {reference.digest[:16]}")
    with stage("computing the distances"):
        results, warnings = reference_distances(*references)
    for name, result in results.items():
        print(f"{name:16s} {with_error(result)}")
    for warning in warnings:
        print(f"Warning: {warning}")


def make() -> None:
    """Computes a reference and writes it."""
    import jax

    from score_sde.evaluation.references import make_reference
    from score_sde.metrics.features import get_extractor
    from score_sde.training.logs.stages import stage

    experiment = config_or_run("reference", CONFIG.value)
    with stage(f"reading the weights of {FEATURES.value}"):
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
    if jax.process_index() == 0:
        print(f"{reference.num_examples} images of {SPLIT.value}, digest {reference.digest[:16]}, in {reference.name}")


if __name__ == "__main__":
    start(main, required=())
