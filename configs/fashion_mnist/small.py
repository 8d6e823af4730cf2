"""A small U-Net on Fashion-MNIST (28×28×1), class-conditional, for one CPU: the run whose pictures are in docs/results.md.

It has EDM's preconditioning, weighting and noise levels on the VP SDE. docs/results.md has
numbers, hardware and time. The variant "guided" drops a tenth of the labels in training, so the
model can be guided by its class.
"""

from ml_collections import ConfigDict

from score_sde.configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Variants: "" or "guided"."""
    if variant not in ("", "guided"):
        raise ValueError(f"small has the variants '' and 'guided', got {variant!r}.")
    config = base.get_config()
    source = {"name": "tfds", "dataset": "fashion_mnist", "label_key": "label"}
    config.data = ConfigDict(
        {
            "train": {**source, "split": "train"},
            "eval": {**source, "split": "test"},
            "augment": {"random_flip": False, "dequantize": True},
        }
    )
    preconditioned(config, sigma_data=0.7)
    config.network.update(
        {
            "channels": 32,
            "channel_multipliers": (1, 2, 2),
            "blocks_per_level": 1,
            "attention_resolutions": (7,),
            "dropout": 0.0,
            "num_classes": 10,
        }
    )
    short_schedule(config, num_steps=1000, batch_size=64, half_life_kimg=4.0)
    config.likelihood.batch_size = 100
    if variant == "guided":
        config.task.condition_dropout = 0.1
    return config


def preconditioned(config: ConfigDict, sigma_data: float) -> None:
    """EDM's preconditioning, weighting and log-normal noise levels, for any SDE."""
    label = {"name": "log_sigma", "scale": 0.25, "gain": 1.0}
    config.parameterization = ConfigDict({"name": "edm", "noise_label": label, "sigma_data": sigma_data})
    config.objective.weighting = ConfigDict({"name": "edm", "sigma_data": sigma_data})
    config.objective.time_sampler = ConfigDict({"name": "log_normal", "mean": -1.0, "std": 1.4})
    config.sampling.solver = ConfigDict({"name": "heun"})
    config.sampling.grid = ConfigDict({"name": "edm_rho", "num_steps": 18, "end": 1e-3, "rho": 7.0, "to_zero": True})


def short_schedule(config: ConfigDict, num_steps: int, batch_size: int, half_life_kimg: float) -> None:
    """A cosine schedule over a short run, with checkpoints and pictures along it."""
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = ConfigDict({"schedule": "cosine", "warmup_steps": 100, "decay_steps": num_steps})
    config.ema.half_lives_kimg = (half_life_kimg,)
    config.training.update(
        {
            "num_steps": num_steps,
            "batch_size": batch_size,
            "eval_batch_size": 200,
            "log_every": 20,
            "eval_every": 0,
            "sample_every": 200,
            "checkpoint_every": 500,
        }
    )
    config.sampling.num_preview = 20
