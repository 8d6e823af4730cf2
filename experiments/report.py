"""A page of a run, or of several against each other: score-sde report --workdir=runs/vp[,runs/ve]

The command writes report.html. The page of one run has curves of loss, held-out error,
learning rate and speed. It has samples over the training, the ledger's rows with their
errors, incidents, commit, hardware and config.

The page of several runs has their curves together and their samples side by side. It shows
what differs between their configs.

The page needs no other file. The command reads what lies in the folder and computes
nothing.
"""

import pathlib

from absl import flags

from .flags import start

OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "The file to write. Default: WORKDIR/report.html; for several runs, report.html beside the first workdir.",
)
flags.declare_key_flag("workdir")


def main() -> None:
    from score_sde.tools.report import write_report

    workdirs = [pathlib.Path(name) for name in flags.FLAGS.workdir.split(",")]
    path = write_report(workdirs, pathlib.Path(OUTPUT.value) if OUTPUT.value else None)
    print(f"Open {path} in a browser.")


if __name__ == "__main__":
    start(main)
