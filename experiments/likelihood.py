"""bits/dim of held-out data: score-sde likelihood --workdir=runs/vp [--max_examples=256] [--set=FIELD=VALUE …]

The command prints the mean with its interval, and writes likelihood.json into the workdir.
The result of each batch stays in the folder likelihood/ of the workdir. If the command is
interrupted, run it again: it continues after the last batch.
"""

from absl import flags

from .flags import CHECKPOINT, EMA, start, workdir_path

MAX_EXAMPLES = flags.DEFINE_integer(
    "max_examples", None, "How many held-out examples to take, from the first on. Default: all.", lower_bound=1
)
SET = flags.DEFINE_multi_string(
    "set",
    [],
    "FIELD=VALUE sets a field of the run's config, for example likelihood.num_repeats=4. The flag may be repeated.",
)
for name in ("workdir", "checkpoint", "ema"):
    flags.declare_key_flag(name)


def main() -> None:
    from score_sde.trained import load

    from .results import run_likelihood

    trained = load(workdir_path(), CHECKPOINT.value, EMA.value, SET.value)
    run_likelihood(trained, MAX_EXAMPLES.value, EMA.value)


if __name__ == "__main__":
    start(main)
