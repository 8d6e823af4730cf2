"""The training loop: batches in, checkpoints, metrics and pictures out; stopped anywhere, it goes on where it was."""

import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from score_sde import parallel
from score_sde.evaluation import LossByNoiseLevel, NoiseLevelLoss, noise_levels
from score_sde.experiment import Experiment, plain
from score_sde.generation import Generator
from score_sde.plots import image_grid, save_image
from score_sde.training.checkpoints import Checkpoints, config_differences
from score_sde.training.logging import MetricLogger
from score_sde.training.progress import Progress
from score_sde.training.state import Params, TrainState
