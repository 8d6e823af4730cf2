"""Measures a trained model: score-sde evaluate --workdir=runs/vp --metrics=fid,kid --num_samples=50000

Some metrics need samples. The command draws the samples, turns them into features and
deletes the samples. Samples are rounded to 8 bits if the data are images of at most 256
levels.

Other metrics need no samples: noise_levels is the loss on held-out data by noise level,
bits_per_dim is as in score-sde likelihood, and density compares a learned 2-D density with
the exact one.

If the command is interrupted, run it again: it continues where it stopped. Each call adds
a line to WORKDIR/ledger.jsonl, which score-sde ledger prints. docs/evaluation.md says how
to read the numbers, and how to write a metric of your own.
"""

from absl import flags

from .feature_names import feature_names, metric_names
from .flags import CHECKPOINT, EMA, start, workdir_path

METRICS = flags.DEFINE_list("metrics", ["noise_levels", "bits_per_dim"], f"Separated by commas: {metric_names()}.")
MAX_EXAMPLES = flags.DEFINE_integer(
    "max_examples",
    None,
    "How many held-out examples noise_levels and bits_per_dim take, from the first on. Default: all.",
    lower_bound=1,
)
SET = flags.DEFINE_multi_string("set", [], "FIELD=VALUE sets a field of the run's config. The flag may be repeated.")
SOLVER = flags.DEFINE_string(
    "solver",
    None,
    'Another solver than the config\'s: a name, with fields if needed, such as "heun" or "ddim(eta=0.5)".',
)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 50_000, "Number of samples for each seed.", lower_bound=2)
SEEDS = flags.DEFINE_list(
    "seeds", ["0"], "Seeds, separated by commas. Seed s is images s · num_samples … (s + 1) · num_samples − 1."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images drawn at once, over all devices.", lower_bound=1)
REFERENCE = flags.DEFINE_string(
    "reference", "train", "train, eval, or an .npz file of score-sde reference, EDM, ADM or pytorch-fid."
)
FEATURES = flags.DEFINE_string("features", "inception", f"{feature_names()}.")
BOOTSTRAP = flags.DEFINE_integer(
    "bootstrap",
    None,
    "Number of bootstrap resamples for the interval of fid and sfid; 0 for the interval of a normal distribution. Default: "
    "100 if they take a minute or less, as for 2,000 samples with 2,048 features. For 50,000 samples with Inception's "
    "features, 100 resamples take 6 minutes on two cores.",
    lower_bound=0,
)
KEEP_SAMPLES = flags.DEFINE_enum("keep_samples", None, ["png", "npz"], "Keep the images too.")
KEEP_FEATURES = flags.DEFINE_bool(
    "keep_features",
    True,
    "Keep the features of the samples. Then fid, kid, prdc, fd_infinity and memorization can be added later without drawing "
    "again. sfid and is need other outputs of the network: name them in the first call, or every image is drawn again.",
)
ALL_CHECKPOINTS = flags.DEFINE_bool("all_checkpoints", False, "Evaluate every checkpoint, and draw the curves.")
for name in ("workdir", "checkpoint", "ema"):
    flags.declare_key_flag(name)


def main() -> None:
    from score_sde.evaluation.request import Evaluation
    from score_sde.run_config import from_workdir
    from score_sde.tools.solver_specs import section_of
    from score_sde.trained import load

    from .results import run_all_checkpoints, run_evaluation

    workdir, overrides = workdir_path(), list(SET.value)
    if SOLVER.value is not None:
        overrides.append(f"sampling.solver={section_of(SOLVER.value)}")
    if not all(seed.isdigit() for seed in SEEDS.value):
        raise ValueError(f"--seeds needs whole numbers >= 0 separated by commas, got {SEEDS.value}.")
    evaluation = Evaluation(
        metrics=tuple(METRICS.value),
        num_samples=NUM_SAMPLES.value,
        seeds=tuple(map(int, SEEDS.value)),
        batch_size=BATCH_SIZE.value,
        reference=REFERENCE.value,
        features=FEATURES.value,
        ema=EMA.value,
        max_examples=MAX_EXAMPLES.value,
        bootstrap=BOOTSTRAP.value,
        keep_samples=KEEP_SAMPLES.value,
        keep_features=KEEP_FEATURES.value,
        overrides=tuple(overrides),
    ).checked()
    if not ALL_CHECKPOINTS.value:
        run_evaluation(load(workdir, CHECKPOINT.value, EMA.value, overrides), evaluation)
    elif CHECKPOINT.value is not None:
        raise ValueError(
            f"--all_checkpoints evaluates every checkpoint, got --checkpoint={CHECKPOINT.value}; drop one."
        )
    else:
        run_all_checkpoints(from_workdir(workdir, overrides), workdir, evaluation)


if __name__ == "__main__":
    start(main)
