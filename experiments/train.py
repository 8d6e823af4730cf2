"""Trains: score-sde train --config=configs/cifar10/ddpmpp_vp.py --workdir=runs/vp [--config.FIELD=VALUE]

If the workdir has a checkpoint, training continues from the newest one. SIGTERM and Ctrl-C
save a checkpoint and exit with status 0. Run the same command again to continue.

To fine-tune, --init_from=WORKDIR[@STEP] begins a new run with the weights of another.
"""

from absl import flags

from .flags import EMA, define_config, start, workdir_path

CONFIG = define_config("FILE.py[:variant] with get_config(). configs/ has many.")
PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", None, "START:STOP writes the profiler's trace of steps START to STOP - 1 into WORKDIR/profile."
)
ALLOW_CHANGE = flags.DEFINE_multi_string(
    "allow_change",
    [],
    "A field or section of the config that may differ from the checkpoint's, for example optimizer.learning_rate. Separate "
    "several by commas, or repeat the flag. 'data' allows other data too. WORKDIR/history.json records what changed.",
)
INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "WORKDIR[@STEP] of another run. A new run begins with the weights of that run: its average with the shortest "
    "half-life, or the average of --ema.",
)
flags.declare_key_flag("workdir")
flags.declare_key_flag("ema")


def main() -> None:
    from score_sde.experiment import Experiment
    from score_sde.runs import parse_init_from, run_training
    from score_sde.training.profiling import parse_steps

    run_training(
        Experiment(CONFIG.value),
        workdir_path(),
        profile_steps=parse_steps(PROFILE_STEPS.value),
        allow_change=[name for names in ALLOW_CHANGE.value for name in names.split(",")],
        init_from=parse_init_from(INIT_FROM.value, EMA.value),
    )


if __name__ == "__main__":
    start(main, required=("config", "workdir"))
