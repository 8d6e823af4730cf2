"""bits/dim of held-out data: score-sde likelihood --workdir=runs/vp [--max_examples=256] [--set=FIELD=VALUE …]

Prints the mean with its interval and writes likelihood.json into the workdir. What each batch gave is kept in the workdir's
likelihood/, so that the same command goes on where it was killed.
"""

from absl import flags

from .flags import CHECKPOINT, EMA, start, workdir_path

MAX_EXAMPLES = flags.DEFINE_integer("max_examples", None, "Only the first so many; all if not given.", lower_bound=1)
SET = flags.DEFINE_multi_string("set", [], "FIELD=VALUE in the run's config, as likelihood.num_repeats=4; repeatable.")
for name in ("workdir", "checkpoint", "ema"):
    flags.declare_key_flag(name)


def main() -> None:
    from score_sde.experiment import from_workdir
    from score_sde.runs import run_likelihood

    workdir = workdir_path()
    run_likelihood(from_workdir(workdir, SET.value), workdir, MAX_EXAMPLES.value, CHECKPOINT.value, EMA.value)


if __name__ == "__main__":
    start(main)
