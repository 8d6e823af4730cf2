"""Names that moved to `score_sde.config`, until nothing imports them from here."""

from score_sde.config import build, check_names, closest

__all__ = ["build", "check_names", "closest"]
