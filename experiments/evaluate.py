"""Measures a trained model: score-sde evaluate --workdir=runs/vp --metrics=fid,kid --num_samples=50000

Some metrics are of samples. These are drawn, rounded to 8 bits where the data are images of at most 256 levels, turned into
features and thrown away. Others are of the model itself and draw none: noise_levels (the loss on held-out data by noise
level), bits_per_dim (as score-sde likelihood) and density (a generated 2-D density against the learned one). If the command
is interrupted, run it again: it goes on where it stopped. Each call adds a line to WORKDIR/ledger.jsonl: see score-sde
ledger. docs/evaluation.md says how to read the numbers, and how to write a metric of your own.
"""

from absl import flags

from .feature_names import feature_names, metric_names
from .flags import CHECKPOINT, EMA, start, workdir_path

METRICS = flags.DEFINE_list("metrics", ["noise_levels", "bits_per_dim"], f"Separated by commas: {metric_names()}.")
MAX_EXAMPLES = flags.DEFINE_integer(
    "max_examples", None, "Only the first so many held-out examples, for noise_levels and bits_per_dim.", lower_bound=1
)
SET = flags.DEFINE_multi_string("set", [], "FIELD=VALUE in the run's config; repeatable.")
SOLVER = flags.DEFINE_string(
    "solver", None, 'Instead of the config\'s: a name, with fields where wanted, as "heun" or "ddim(eta=0.5)".'
)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 50_000, "How many samples of each seed.", lower_bound=2)
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seed s is images s · num_samples … (s + 1) · num_samples − 1.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images drawn at once, over all devices.", lower_bound=1)
REFERENCE = flags.DEFINE_string("reference", "train", "train, eval, or a .npz of ours, EDM, ADM or pytorch-fid.")
FEATURES = flags.DEFINE_string("features", "inception", f"{feature_names()}.")
BOOTSTRAP = flags.DEFINE_integer(
    "bootstrap",
    None,
    "Resamples for the interval of fid and sfid, 0 for that of a normal distribution; by default 100 where they take a "
    "minute or less (2,000 samples, or 512 features). Of 50,000 with Inception's features they take 6 on two cores.",
    lower_bound=0,
)
KEEP_SAMPLES = flags.DEFINE_enum("keep_samples", None, ["png", "npz"], "Keep the images too.")
KEEP_FEATURES = flags.DEFINE_bool(
    "keep_features",
    True,
    "Keep the samples' features: fid, kid, prdc, fd_infinity and memorization can be added later without drawing; sfid and is "
    "need other outputs of the network, and draw every image again unless the first call names them too.",
)
ALL_CHECKPOINTS = flags.DEFINE_bool("all_checkpoints", False, "Evaluate every checkpoint, and draw the curves.")
for name in ("workdir", "checkpoint", "ema"):
    flags.declare_key_flag(name)


def main() -> None:
    from score_sde.evaluation.checkpoint_curve import run_all_checkpoints
    from score_sde.evaluation.evaluating import Evaluation, run_evaluation
    from score_sde.experiment import from_workdir
    from score_sde.tools.solver_specs import section_of

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
    experiment = from_workdir(workdir, overrides)
    if not ALL_CHECKPOINTS.value:
        run_evaluation(experiment, workdir, evaluation, CHECKPOINT.value)
    elif CHECKPOINT.value is not None:
        raise ValueError(
            f"--all_checkpoints evaluates every checkpoint, got --checkpoint={CHECKPOINT.value}; drop one."
        )
    else:
        run_all_checkpoints(experiment, workdir, evaluation)


if __name__ == "__main__":
    start(main)
