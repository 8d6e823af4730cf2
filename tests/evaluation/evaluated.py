"""Runs to evaluate: a tiny model of points and one of digits, with parameters far from zero. Nothing is trained."""

import contextlib

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import density2d, quickstart
from score_sde.experiment import Experiment
from score_sde.run_config import write_config
from score_sde.training.saving.checkpoints import Checkpoints


def points() -> ConfigDict:
    config = density2d.get_config("moons")
    config.network.update({"width": 16, "depth": 1})
    config.data.train.num_examples, config.data.eval.num_examples = 300, 120
    config.sampling.grid.num_steps = 5
    config.training.update({"batch_size": 32, "eval_batch_size": 64})
    return config


def digits() -> ConfigDict:
    config = quickstart.get_config()
    config.network.update({"channels": 8, "channel_multipliers": (1,), "attention_resolutions": ()})
    config.sampling.grid.num_steps = 4
    config.training.batch_size = 8
    config.mesh.num_devices = 1
    return config


def save(config: ConfigDict, folder, steps=(0,)) -> None:
    """Checkpoints at `steps`, each with other parameters, and the config."""
    experiment, noise = Experiment(config), np.random.default_rng(0)
    with jax.numpy_dtype_promotion("standard"):
        state = experiment.recipe.init_state()
    with contextlib.closing(Checkpoints(folder, keep=len(steps))) as checkpoints:
        for step in steps:
            params = jax.tree.map(lambda leaf: leaf + 0.2 * noise.standard_normal(leaf.shape, np.float32), state.params)
            count = state.step + np.int32(step)
            checkpoints.save(state._replace(step=count, params=params, ema=dict.fromkeys(state.ema, params)), {})
    write_config(experiment, folder)
