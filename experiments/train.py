"""Trains: python -m experiments.train --config=configs/cifar10/ddpmpp_vp.py --workdir=runs/vp [--config.FIELD=VALUE]

Goes on from the newest checkpoint of the workdir if there is one.
"""

from absl import flags
from ml_collections import config_flags

from experiments.flags import start, workdir_path

CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py[:variant] with get_config(); configs/ has many.")
flags.declare_key_flag("workdir")
flags.declare_key_flag("distributed")


def main() -> None:
    from score_sde.experiment import Experiment
    from score_sde.runs import run_training

    run_training(Experiment(CONFIG.value), workdir_path())


if __name__ == "__main__":
    start(main, required=("config", "workdir"))
