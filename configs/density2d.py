"""A density in the plane by a small MLP. The variant names the density: "moons" (default), "checkerboard", "rings" …

It trains in about 40 s on two CPU cores. Some densities of data/densities know their exact
log-density. For these, the learned density can be compared with the exact one.
"""

from ml_collections import ConfigDict

from score_sde.configs import base


def get_config(variant: str = "moons") -> ConfigDict:
    """The variant is a name of score_sde.data.DENSITIES."""
    config = base.get_config()
    train = {"name": "density", "density": variant, "num_examples": 100_000, "seed": 0}
    config.data = ConfigDict({"train": train, "eval": {**train, "num_examples": 2_000, "seed": 1}, "augment": {}})
    label = {"name": "log_sigma", "scale": 0.25, "gain": 1.0}
    config.parameterization = ConfigDict({"name": "edm", "noise_label": label, "sigma_data": 1.0})
    config.network = ConfigDict({"name": "mlp", "width": 128, "depth": 3})
    config.objective.weighting = ConfigDict({"name": "edm", "sigma_data": 1.0})
    config.objective.time_sampler = ConfigDict({"name": "log_normal", "mean": -1.2, "std": 1.6})
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = ConfigDict({"schedule": "cosine", "warmup_steps": 100, "decay_steps": 5000})
    config.ema.half_lives_kimg = (50.0,)
    config.training.update(
        {
            "num_steps": 5000,
            "batch_size": 512,
            "eval_batch_size": 500,
            "log_every": 50,
            "eval_every": 0,
            "sample_every": 0,
            "checkpoint_every": 2500,
        }
    )
    config.sampling.grid = ConfigDict({"name": "log_snr_uniform", "num_steps": 50, "end": 1e-3})
    config.likelihood.divergence = ConfigDict({"name": "exact"})
    return config
