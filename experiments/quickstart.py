"""Trains, samples and measures a small model on the embedded digits: score-sde quickstart

Afterwards open report.html in the workdir. A second call shows the same model. With
--fresh it starts over.
"""

import shutil

from absl import flags

from score_sde.config.files import FOLDER

from .flags import WORKDIR, define_config, start, workdir_path

CONFIG = define_config(
    "FILE.py[:variant] with get_config(). Default: configs/quickstart.py.", str(FOLDER / "quickstart.py")
)
FRESH = flags.DEFINE_bool("fresh", False, "Delete the earlier run in the workdir first.")
flags.set_default(WORKDIR, "runs/quickstart")
flags.declare_key_flag("workdir")


def main() -> None:
    from score_sde.experiment import Experiment
    from score_sde.tools.quickstart import run_quickstart

    workdir = workdir_path()
    if FRESH.value and (workdir / "config.json").is_file():
        shutil.rmtree(workdir)
    report = run_quickstart(Experiment(CONFIG.value), workdir)
    if report is not None:
        print(f"Open {report} in a browser.")


if __name__ == "__main__":
    start(main, required=(), large_buffers=False)  # most of its time is compiling
