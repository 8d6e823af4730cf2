"""Trains: score-sde train --config=configs/cifar10/ddpmpp_vp.py --workdir=runs/vp [--config.FIELD=VALUE]

Goes on from the newest checkpoint of the workdir if there is one. SIGTERM and Ctrl-C save one and exit with 0; the same
command then goes on.
"""

from absl import flags

from .flags import define_config, start, workdir_path

CONFIG = define_config("FILE.py[:variant] with get_config(); configs/ has many.")
PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", None, "START:STOP writes the profiler's trace of steps START to STOP - 1 into WORKDIR/profile."
)
flags.declare_key_flag("workdir")


def main() -> None:
    from score_sde.experiment import Experiment
    from score_sde.runs import run_training
    from score_sde.training.profiling import parse_steps

    run_training(Experiment(CONFIG.value), workdir_path(), profile_steps=parse_steps(PROFILE_STEPS.value))


if __name__ == "__main__":
    start(main, required=("config", "workdir"))
