"""Every catalogue that a config can name, by the config section and by the class that annotates a field.

So a class outside of the package may have a field annotated `Solver`. In a config, that field takes
a section of solvers, as the fields of this library do.
"""

from flax import linen as nn

from score_sde.config import Catalogues, Family
from score_sde.data import SOURCES, Source
from score_sde.denoising.parameterizations import NOISE_LABELS, PARAMETERIZATIONS, NoiseLabel, Parameterization
from score_sde.guidance import (
    ENERGIES,
    GUIDANCE,
    OBJECT_ENERGIES,
    SCHEDULES,
    THRESHOLDS,
    Energy,
    Guidance,
    ObjectEnergy,
    Schedule,
)
from score_sde.guidance.inverse import METHODS
from score_sde.guidance.operators import OPERATORS, Operator
from score_sde.latents import CODECS, Codec
from score_sde.likelihood import DIVERGENCES, Divergence
from score_sde.networks import NETWORKS
from score_sde.objectives import OBJECTIVES, TIME_SAMPLERS, WEIGHTINGS, Objective, TimeSampler, Weighting
from score_sde.sdes import SDE, SDES
from score_sde.solvers import SOLVERS, Solver
from score_sde.solvers.grids import GRIDS, Grid
from score_sde.tasks import TASKS, Task
from score_sde.training.optimizers import OPTIMIZER

_FAMILIES = {
    SDE: Family(SDES, SDE),
    Parameterization: Family(PARAMETERIZATIONS, Parameterization),
    NoiseLabel: Family(NOISE_LABELS, NoiseLabel),
    nn.Module: Family(NETWORKS, nn.Module),
    Objective: Family(OBJECTIVES, Objective, num_args=1),
    Weighting: Family(WEIGHTINGS, Weighting),
    TimeSampler: Family(TIME_SAMPLERS, TimeSampler),
    Source: Family(SOURCES, Source, largest=None),
    Solver: Family(SOLVERS, Solver),
    Grid: Family(GRIDS, Grid),
    Divergence: Family(DIVERGENCES, Divergence),
    Guidance: Family({**GUIDANCE, **METHODS}, Guidance),
    Operator: Family(OPERATORS, Operator),
    Schedule: Family(SCHEDULES, Schedule),
    Energy: Family(ENERGIES, Energy),
    ObjectEnergy: Family(OBJECT_ENERGIES, ObjectEnergy),
    Codec: Family(CODECS, Codec),
}
CATALOGUES = Catalogues(
    at={
        "data.train": _FAMILIES[Source],
        "data.eval": _FAMILIES[Source],
        "sde": _FAMILIES[SDE],
        "parameterization": _FAMILIES[Parameterization],
        "network": _FAMILIES[nn.Module],
        "objective": _FAMILIES[Objective],
        "optimizer": OPTIMIZER,
        "sampling.solver": _FAMILIES[Solver],
        "sampling.grid": _FAMILIES[Grid],
        "sampling.guidance": _FAMILIES[Guidance],
        "sampling.threshold": Family(THRESHOLDS, Guidance),
        "task": Family(TASKS, Task, num_args=3),
        "likelihood.divergence": _FAMILIES[Divergence],
        "codec": _FAMILIES[Codec],
    },
    of=_FAMILIES,
)
