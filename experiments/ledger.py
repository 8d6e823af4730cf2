"""The evaluations of runs as a table: python -m experiments.ledger --workdir=runs/vp[,runs/ve]

--compare=1,2: what differs between two rows. --plot=fid:nfe (or :images, :ema): a picture. --again=3: the command that makes
row 3 again.
"""

import pathlib
import sys

from absl import flags

from experiments.flags import start

COMPARE = flags.DEFINE_list("compare", None, "Two numbers of rows.")
PLOT = flags.DEFINE_string("plot", None, "METRIC:nfe, METRIC:images or METRIC:ema.")
AGAIN = flags.DEFINE_integer("again", None, "Prints the command of this row.")
OUTPUT = flags.DEFINE_string("output", None, "The picture; METRIC_AXIS.png in the first workdir if not given.")
flags.declare_key_flag("workdir")

AXES = {
    "nfe": "network evaluations",
    "images": "images seen in training",
    "ema": "half-life of the average (thousands)",
}


def main() -> None:
    from score_sde.runs.ledger import curves, differences, find_row, read_rows, table

    workdirs = [pathlib.Path(name) for name in flags.FLAGS.workdir.split(",")]
    rows, warnings = read_rows(workdirs)
    for warning in warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    if AGAIN.value is not None:
        print(find_row(rows, AGAIN.value).values["command"])
    elif COMPARE.value is not None:
        if len(COMPARE.value) != 2 or not all(number.isdigit() for number in COMPARE.value):
            raise ValueError(f"--compare needs the numbers of two rows, as 1,2, got {COMPARE.value}.")
        print("\n".join(differences(*(find_row(rows, int(number)) for number in COMPARE.value))))
    elif PLOT.value is not None:
        from score_sde.plots.scores import metric_curves

        metric, _, axis = PLOT.value.partition(":")
        found = curves(rows, metric, axis)
        path = pathlib.Path(OUTPUT.value or workdirs[0] / f"{metric}_{axis}.png")
        print(metric_curves(found, path, AXES[axis], metric))
    else:
        print(table(rows))


if __name__ == "__main__":
    start(main)
