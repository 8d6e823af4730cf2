"""A page of a run, or of several against each other: score-sde report --workdir=runs/vp[,runs/ve]

Writes report.html: curves of loss, held-out error, learning rate and speed; samples over the training; the ledger's rows with
their errors; incidents; commit, hardware and config. Of several runs: the curves together, samples side by side, and what
differs between their configs. The page needs no other file. It reads what lies in the folder and computes nothing.
"""

import pathlib

from absl import flags

from .flags import start

OUTPUT = flags.DEFINE_string(
    "output", None, "The page; WORKDIR/report.html, or of several runs report.html beside the first, if not given."
)
flags.declare_key_flag("workdir")


def main() -> None:
    from score_sde.tools.report import write_report

    workdirs = [pathlib.Path(name) for name in flags.FLAGS.workdir.split(",")]
    path = write_report(workdirs, pathlib.Path(OUTPUT.value) if OUTPUT.value else None)
    print(f"Open {path} in a browser.")


if __name__ == "__main__":
    start(main)
