"""The form in which ledgers and sweeps record the project's own commands, which works in any folder."""

PROGRAM = ("python", "-m", "score_sde")


def current(command: str) -> str:
    """A command in the present form. Earlier versions wrote `python -m experiments.train`."""
    return command.replace("python -m experiments.", f"{' '.join(PROGRAM)} ", 1)
