"""Compares methods for inverse problems with an exact posterior: score-sde compare_restorers --output=runs/restorers

The data are a Gaussian and a mixture of Gaussians, so the posterior is known. Nothing is
trained. With the defaults it takes about 5 minutes of one core. The command writes the errors
of mean, covariance and sliced Wasserstein distance (errors.md and errors.csv). It also writes
the rank histograms of simulation-based calibration (calibration.png).
"""

import pathlib

from absl import flags

from .flags import start

METHODS = flags.DEFINE_string("methods", None, "Methods of score-sde restore, separated by commas. Default: all.")
OPERATORS = flags.DEFINE_list("operators", None, "mask, block average, random projection; all if not given.")
NFE = flags.DEFINE_list("steps", ["25", "100"], "Numbers of steps, separated by commas.")
NOISE_STDS = flags.DEFINE_list(
    "noise_stds", ["0.1", "0.5"], "Standard deviations of the measurement's noise, separated by commas."
)
NUMBER = flags.DEFINE_integer("number", 1024, "Number of draws from each posterior.", lower_bound=2)
PAIRS = flags.DEFINE_integer(
    "pairs",
    64,
    "Examples whose ranks are taken, among number / pairs draws each; 0: no picture.",
    lower_bound=0,
)
OUTPUT = flags.DEFINE_string("output", "runs/restorers", "Folder to write to.")


def main() -> None:
    from score_sde.tools import compare_restorers as comparison
    from score_sde.tools.solver_specs import split

    methods = split(METHODS.value) if METHODS.value else comparison.METHODS
    folder, noise_stds = pathlib.Path(OUTPUT.value or "."), [float(value) for value in NOISE_STDS.value]
    steps = [int(value) for value in NFE.value]
    comparison.run_restorer_comparison(folder, methods, OPERATORS.value, noise_stds, steps, NUMBER.value, PAIRS.value)
    print(f"errors.md, errors.csv and calibration.png are in {folder}")


if __name__ == "__main__":
    start(main, required=())
