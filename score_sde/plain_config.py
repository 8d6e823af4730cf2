"""Names that moved to `score_sde.config`, until nothing imports them from here."""

from score_sde.config import (
    FREE_SECTIONS,
    differences,
    is_number,
    lasting,
    plain,
    section_at,
    shared_sections,
)

__all__ = ["FREE_SECTIONS", "differences", "is_number", "lasting", "plain", "section_at", "shared_sections"]
