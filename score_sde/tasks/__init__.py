"""Tasks: the kinds of model that the trainer can train, one file each.

`TASKS` maps a config name to the task, which is called with (model, objective, eval_levels).
"""

from score_sde.tasks.base import Losses, Task
from score_sde.tasks.classification import Classification
from score_sde.tasks.denoising import Denoising

TASKS: dict[str, type[Task]] = {"denoising": Denoising, "classification": Classification}
