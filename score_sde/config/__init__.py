"""Configs: their sections, files, overrides and differences, and the objects that are built from sections.

Nothing here imports JAX. Catalogues import JAX, so the caller passes them in
(`score_sde.catalogues`).
"""

from score_sde.config import sections
from score_sde.config.building import NO_CATALOGUES, Catalogues, build, checked_config, checked_section, made
from score_sde.config.differences import (
    FREE_SECTIONS,
    changes,
    completed,
    differences,
    lasting,
    may_change,
    plain,
    section_at,
    shared_sections,
)
from score_sde.config.files import call, find_file, load_config
from score_sde.config.frozen import FrozenConfig
from score_sde.config.kinds import is_number
from score_sde.config.lookup import Family, check_names, closest, from_outside
from score_sde.config.overrides import apply_overrides, apply_values, literal
from score_sde.config.sections import Schedule, Settings
