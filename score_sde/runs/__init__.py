"""What the entry points do with an experiment and a folder: train, sample, measure."""

from score_sde.runs.measures import (
    bits_as_json,
    draw_noise_levels,
    held_out_bits_per_dim,
    loss_by_noise_level,
    run_likelihood,
    run_noise_levels,
)
from score_sde.runs.restoring import open_checkpoints, pick_params, restore
from score_sde.runs.sampling import run_sampling, stream_samples
from score_sde.runs.training import run_training
from score_sde.runs.weights import parse_init_from
