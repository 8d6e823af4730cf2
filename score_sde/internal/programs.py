"""How the project's own commands are written down, in ledgers and in sweeps: by a form that works in any folder."""

PROGRAM = ("python", "-m", "score_sde")


def current(command: str) -> str:
    """A command as it is written now; earlier versions wrote `python -m experiments.train`."""
    return command.replace("python -m experiments.", f"{' '.join(PROGRAM)} ", 1)
