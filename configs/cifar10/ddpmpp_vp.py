"""DDPM++ continuous on CIFAR-10 with the VP SDE. "deep" doubles the blocks.

Expected, from arXiv 2011.13456, Tables 2 and 3, after 1.3 M steps (0.95 M for deep) of batch 128 on 4 V100 at about 0.2 s:
FID 2.55 and 3.16 bits/dim; deep: FID 2.41 (sub-VP, below) and 3.13 bits/dim. Not yet reproduced here.

Differs from it in: EMA with a ramp-up; a half-life of 887 thousand images is their decay of 0.9999 at batch 128.
"""

from ml_collections import ConfigDict

from score_sde.configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Variants: "" or "deep"."""
    if variant not in ("", "deep"):
        raise ValueError(f"ddpmpp_vp has the variants '' and 'deep', got {variant!r}.")
    config = base.get_config()
    config.data = cifar10()
    config.network.update(
        {
            "channels": 128,
            "channel_multipliers": (1, 2, 2, 2),
            "blocks_per_level": 8 if variant == "deep" else 4,
            "attention_resolutions": (16,),
            "dropout": 0.1,
        }
    )
    config.training.num_steps = 950_000 if variant == "deep" else 1_300_000
    config.training.eval_every = config.training.sample_every = 50_000
    config.training.checkpoint_every = 10_000
    config.sampling.solver = ConfigDict({"name": "euler_maruyama"})
    config.sampling.grid = ConfigDict({"name": "uniform", "num_steps": 1000, "end": 1e-3})
    return config


def cifar10() -> ConfigDict:
    """CIFAR-10 from TFDS, with flips."""
    return ConfigDict(
        {
            "train": {"name": "tfds", "dataset": "cifar10", "split": "train"},
            "eval": {"name": "tfds", "dataset": "cifar10", "split": "test"},
            "augment": {"random_flip": True, "dequantize": False},
        }
    )
