"""The work of the entry points with an experiment and a folder: training, sampling and measuring."""

from score_sde.runs.configured import run_training, trainer_of
from score_sde.runs.measures import (
    bits_as_json,
    draw_noise_levels,
    held_out_bits_per_dim,
    likelihood,
    loss_by_noise_level,
    noise_levels,
)
from score_sde.runs.sampling import draw_samples, stream_samples
from score_sde.runs.trainer import Trainer
from score_sde.runs.weights import parse_init_from
from score_sde.trained import read_state
from score_sde.training.state import pick_params
