"""Measures a trained model: python -m experiments.evaluate --workdir=runs/vp --metrics=noise_levels,bits_per_dim

noise_levels: the loss on held-out data by noise level, as a table, a picture and JSON. bits_per_dim: as
experiments.likelihood. density: a generated 2-D density against the learned one and the samples, with a picture.
"""

from absl import flags

from experiments.flags import CHECKPOINT, EMA, start, workdir_path

METRICS = flags.DEFINE_list("metrics", ["noise_levels", "bits_per_dim"], "Which, separated by commas.")
MAX_EXAMPLES = flags.DEFINE_integer("max_examples", None, "Only the first so many; not for density.", lower_bound=1)
SET = flags.DEFINE_multi_string("set", [], "FIELD=VALUE in the run's config; repeatable.")
for name in ("workdir", "checkpoint", "ema"):
    flags.declare_key_flag(name)


def main() -> None:
    from score_sde.experiment import from_workdir
    from score_sde.runs import run_density, run_likelihood, run_noise_levels

    workdir = workdir_path()
    experiment = from_workdir(workdir, SET.value)
    which = (MAX_EXAMPLES.value, CHECKPOINT.value, EMA.value)
    known = {
        "noise_levels": lambda: run_noise_levels(experiment, workdir, *which),
        "density": lambda: run_density(experiment, workdir, CHECKPOINT.value, EMA.value),
        "bits_per_dim": lambda: run_likelihood(experiment, workdir, *which),
    }
    unknown = [name for name in METRICS.value if name not in known]
    if unknown:
        raise ValueError(f"--metrics needs names among {sorted(known)}, got {unknown}.")
    for name in METRICS.value:
        known[name]()


if __name__ == "__main__":
    start(main)
