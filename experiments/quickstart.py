"""Trains, samples and measures a small model on the embedded digits: python -m experiments.quickstart

Open report.html in the workdir afterwards. Run again, it shows the same model; --fresh starts over.
"""

import pathlib
import shutil
import sys

from absl import flags
from ml_collections import config_flags

import configs
from experiments.flags import WORKDIR, start, workdir_path

DEFAULT = str(pathlib.Path(configs.__file__).parent / "quickstart.py")  # also where the wheel is installed
CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py[:variant] with get_config(); configs/quickstart.py.")
FRESH = flags.DEFINE_bool("fresh", False, "Delete the workdir's earlier run first.")
flags.set_default(WORKDIR, "runs/quickstart")
flags.declare_key_flag("workdir")


def main() -> None:
    from score_sde.experiment import Experiment
    from score_sde.quickstart import run_quickstart

    workdir = workdir_path()
    if FRESH.value and (workdir / "config.json").is_file():
        shutil.rmtree(workdir)
    report = run_quickstart(Experiment(CONFIG.value), workdir)
    print(f"Open {report} in a browser.")


if __name__ == "__main__":
    # As an argument, not as the flag's default: that is read when the flag is defined, before a mistake can be told.
    if not any(argument.lstrip("-").split("=")[0] == "config" for argument in sys.argv[1:]):
        sys.argv.insert(1, f"--config={DEFAULT}")
    start(main, required=(), large_buffers=False)  # most of its time is compiling
