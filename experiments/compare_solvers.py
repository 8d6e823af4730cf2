"""Compares solvers at several numbers of evaluations: score-sde compare_solvers --solvers=ddim,heun --nfe=5,10

With --workdir=RUN the command compares on the model of that run. Without --workdir it
compares on an exact mixture of Gaussians and trains nothing.

It writes a CSV, a plot of the error against the evaluations, and samples at every number
of evaluations. Fields of a solver stand in parentheses:
--solvers="ddim(eta=1.0),ancestral_steps(solver=heun)".
"""

import pathlib

from absl import flags

from .flags import CHECKPOINT, EMA, WORKDIR, start, workdir_path

SOLVERS = flags.DEFINE_string(
    "solvers",
    "ddim,heun,dpm_solver_pp_2m,dpm_solver_pp_2m_sde,ancestral",
    "Solvers of the catalogue, separated by commas.",
)
NFE = flags.DEFINE_list("nfe", ["5", "10", "20", "40", "80"], "Numbers of network evaluations, separated by commas.")
GRID_NAMES = flags.DEFINE_list("grids", ["log_snr_uniform"], "Grids of the catalogue that have a start and an end.")
SDE_NAME = flags.DEFINE_string("sde", "vp", "Without --workdir: the SDE of the mixture.")
NUMBER = flags.DEFINE_integer(
    "number", None, "Number of samples. Default: 4096 of the mixture, 64 of a model.", lower_bound=2
)
OUTPUT = flags.DEFINE_string(
    "output", None, "Folder to write to. Default: WORKDIR/solvers, or runs/solvers_SDE without --workdir."
)
for name in ("workdir", "checkpoint", "ema"):
    flags.declare_key_flag(name)


def main() -> None:
    from score_sde.tools.compare_solvers import mixture_problem, run_problem
    from score_sde.tools.solver_specs import split
    from score_sde.trained import load

    from .results import run_comparison

    budgets = sorted({int(value) for value in NFE.value})
    if not budgets or budgets[0] < 1:
        raise ValueError(f"--nfe needs numbers of at least 1, by commas, got {NFE.value}.")
    if WORKDIR.value is None:
        folder = pathlib.Path(OUTPUT.value or f"runs/solvers_{SDE_NAME.value}")
        problem = mixture_problem(SDE_NAME.value, NUMBER.value or 4096)
    else:
        folder = pathlib.Path(OUTPUT.value) if OUTPUT.value else workdir_path() / "solvers"
        problem = run_problem(load(workdir_path(), CHECKPOINT.value, EMA.value), NUMBER.value or 64)
    run_comparison(problem, folder, split(SOLVERS.value), budgets, GRID_NAMES.value)


if __name__ == "__main__":
    start(main, required=())
