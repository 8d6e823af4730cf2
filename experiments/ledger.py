"""The evaluations of runs as a table: score-sde ledger --workdir=runs/vp[,runs/ve]

--compare=1,2              what differs between two rows, and which of their numbers compare
--plot=fid:nfe             a picture (or :images, :ema); a line joins rows that differ
                           along this axis alone
--again=3                  the command that makes row 3 again, without --keep_samples,
                           --keep_features and the environment (PYTHONPATH)
--copy=1,3 --output=docs   adds these rows to docs/ledger.jsonl, which is published
"""

import pathlib
import sys

from absl import flags

from .flags import start

COMPARE = flags.DEFINE_list("compare", None, "The numbers of two rows, such as 1,2.")
PLOT = flags.DEFINE_string("plot", None, "METRIC:nfe, METRIC:images or METRIC:ema.")
AGAIN = flags.DEFINE_integer("again", None, "Prints the command of this row.")
COPY = flags.DEFINE_list("copy", None, "Numbers of rows, or all. They are added to the ledger in the folder --output.")
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "The file of the picture. Default: METRIC_AXIS.png in the first workdir. With --copy: the folder of the other ledger.",
)
flags.declare_key_flag("workdir")

AXES = {
    "nfe": "network evaluations",
    "images": "images seen in training",
    "ema": "half-life of the average (thousands)",
}


def row_numbers(flag: str, words: list[str]) -> list[int]:
    """The numbers of rows in the words of a flag."""
    if not all(word.isdigit() for word in words):
        raise ValueError(f"--{flag} needs numbers of rows separated by commas, got {words}.")
    return [int(word) for word in words]


def main() -> None:
    from score_sde.evaluation.ledger import ERRORS_TOLD, copy_rows, find_row, read_rows, table
    from score_sde.evaluation.row_comparison import curves, differences

    workdirs = [pathlib.Path(name) for name in flags.FLAGS.workdir.split(",")]
    rows, warnings = read_rows(workdirs)
    for warning in warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    if AGAIN.value is not None:
        print(find_row(rows, AGAIN.value).values["command"])
    elif COPY.value is not None:
        numbers = range(1, len(rows) + 1) if COPY.value == ["all"] else row_numbers("copy", COPY.value)
        if OUTPUT.value is None:
            raise ValueError("--copy needs --output, the folder of another ledger.")
        count = copy_rows([find_row(rows, number) for number in numbers], pathlib.Path(OUTPUT.value))
        print(f"{count} rows added to the ledger in {OUTPUT.value}")
    elif COMPARE.value is not None:
        if len(COMPARE.value) != 2:
            raise ValueError(f"--compare needs the numbers of two rows, as 1,2, got {COMPARE.value}.")
        print("\n".join(differences(*(find_row(rows, number) for number in row_numbers("compare", COMPARE.value)))))
    elif PLOT.value is not None:
        from score_sde.evaluation.metric_names import label, title
        from score_sde.plots.scores import metric_curves

        metric, _, axis = PLOT.value.partition(":")
        found = curves(rows, metric, axis)
        result = next(row.values["results"][metric] for row in rows if metric in row.values["results"])
        path = pathlib.Path(OUTPUT.value or workdirs[0] / f"{metric}_{axis}.png")
        print(metric_curves(found, path, AXES[axis], label(metric, result), f"{title(metric, result)} by {AXES[axis]}"))
    else:
        print(f"{table(rows)}\n{ERRORS_TOLD}")


if __name__ == "__main__":
    start(main)
