"""DDPM++ continuous on CIFAR-10 with the VP SDE. The variant "deep" doubles the blocks.

Expected, from arXiv 2011.13456, Tables 2 and 3. Not yet reproduced here.

  ""      FID 2.55 and 3.16 bits/dim, after 1.3 M steps
  "deep"  FID 2.41 (sub-VP, below) and 3.13 bits/dim, after 0.95 M steps

The published runs used batches of 128 on 4 V100, at about 0.2 s a step.

The published run is configs/vp/cifar10_ddpmpp_continuous.py (and _deep_) of
yang-song/score_sde at 0acb9e0. This config differs from it in these points:

- Last step of sampling: ours goes to x̂0. Theirs is one more Euler-Maruyama step without its
  noise, from t = 0.001 on. It leaves 0.1 grey levels of noise on a point mass.
- Attention: queries, keys and values start with √5 times their standard deviation.
- Warm-up: ours is one step ahead. Its first step has a 5000th of the learning rate. Theirs
  has a rate of 0.
- Average: our half-life of 887 thousand images is their decay of 0.9999, to 0.02 %.
- Batches: ours hold each image once an epoch. Theirs come from a shuffled buffer.
- Likelihood: our bins have width 2/255 around the levels −1 … 1. Theirs are
  k/128 − 1 … (k + 1)/128 − 1. Both are right, and the models differ by this scaling.
- Choice of the checkpoint: the published FID is the smallest of the checkpoints at every
  50,000 steps. The published bits/dim are of the last checkpoint.
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
    config.ema.rampup_ratio = None
    config.training.num_steps = 950_000 if variant == "deep" else 1_300_000
    config.training.eval_every = config.training.sample_every = 50_000
    config.training.checkpoint_every = 10_000
    config.sampling.solver = ConfigDict({"name": "denoise_last", "solver": {"name": "euler_maruyama"}})
    config.sampling.grid = ConfigDict({"name": "uniform", "num_steps": 1000, "end": 1e-3, "to_zero": True})
    config.likelihood.update({"rtol": 1e-5, "atol": 1e-5, "num_repeats": 5})
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
