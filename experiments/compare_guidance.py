"""Compares guidance rules at several scales: score-sde compare_guidance --workdir=runs/digits --scales=1,2,3

For each rule and scale the command draws samples of all classes and measures precision,
recall and the accuracy of the class: the fraction of samples in which a classifier sees
the class that was asked for. The classifier is a kernel classifier of the training data,
or the classifier that the run in --classifier trained (task.name=classification).

It writes guidance.csv and guidance.png, and a line of WORKDIR/ledger.jsonl for each
point. Fields of a rule stand in parentheses:
--rules="classifier_free,apg(norm_threshold=5.0),autoguidance(step=200)". The weak model of
autoguidance is an earlier checkpoint of the run itself, unless the rule has a workdir.
If the command is interrupted, run it again: it draws only the missing images.
"""

import pathlib

from absl import flags

from .feature_names import feature_names
from .flags import CHECKPOINT, EMA, start, workdir_path

RULES = flags.DEFINE_string("rules", "classifier_free,apg", "Rules of guidance with a scale, separated by commas.")
SCALES = flags.DEFINE_list("scales", ["1", "1.5", "2", "3", "5"], "Guidance scales. 1 is the conditional model.")
INTERVAL = flags.DEFINE_list(
    "interval", [], "LOW,HIGH: each rule is measured also with guidance only between these log-SNR."
)
CLASSIFIER = flags.DEFINE_string("classifier", None, "Folder of a run that trained a classifier.")
OUTPUT = flags.DEFINE_string("output", None, "Folder to write to. Default: WORKDIR/guidance.")
for name in ("workdir", "checkpoint", "ema"):
    flags.declare_key_flag(name)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1000, "Number of samples of each rule and scale.", lower_bound=20)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 250, "Images drawn at once, over all devices.", lower_bound=1)
FEATURES = flags.DEFINE_string("features", "pixels", f"{feature_names()}.")
SET = flags.DEFINE_multi_string("set", [], "FIELD=VALUE sets a field of the run's config. The flag may be repeated.")


def main() -> None:
    from score_sde.evaluation.request import Evaluation
    from score_sde.tools.compare_guidance import Comparison, RunClassifier
    from score_sde.tools.solver_specs import split

    from .results import run_guidance_comparison

    workdir = workdir_path()
    comparison = Comparison(
        workdir=workdir,
        rules=split(RULES.value),
        scales=numbers("scales", SCALES.value),
        interval=interval(INTERVAL.value),
        evaluation=Evaluation(
            metrics=("prdc",),
            num_samples=NUM_SAMPLES.value,
            batch_size=BATCH_SIZE.value,
            features=FEATURES.value,
            ema=EMA.value,
            overrides=tuple(SET.value),
        ),
        step=CHECKPOINT.value,
    )
    classifier = None if CLASSIFIER.value is None else RunClassifier(pathlib.Path(CLASSIFIER.value))
    run_guidance_comparison(comparison, classifier, pathlib.Path(OUTPUT.value or workdir / "guidance"))


def interval(texts: list[str]) -> tuple[float, float] | None:
    """The two ends, or None for no text.

    Raises: ValueError for another number of ends, or a low end above the high end.
    """
    if not texts:
        return None
    ends = numbers("interval", texts)
    if len(ends) != 2 or ends[0] > ends[1]:
        raise ValueError(f"--interval needs LOW,HIGH with LOW <= HIGH, got {','.join(texts)}.")
    return ends[0], ends[1]


def numbers(flag: str, texts: list[str]) -> list[float]:
    """The texts as numbers.

    Raises: ValueError for another text.
    """
    try:
        return [float(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"--{flag} needs numbers separated by commas, got {','.join(texts)}.") from error


if __name__ == "__main__":
    start(main)
