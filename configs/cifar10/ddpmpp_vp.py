"""DDPM++ continuous on CIFAR-10 with the VP SDE. "deep" doubles the blocks.

Expected, from arXiv 2011.13456, Tables 2 and 3, after 1.3 M steps (0.95 M for deep) of batch 128 on 4 V100 at about 0.2 s:
FID 2.55 and 3.16 bits/dim; deep: FID 2.41 (sub-VP, below) and 3.13 bits/dim. Not yet reproduced here.

The published run is configs/vp/cifar10_ddpmpp_continuous.py (and _deep_) of yang-song/score_sde at 0acb9e0. This config
differs from it in:

- Sampling: the last step goes to x̂0. Theirs is one more Euler-Maruyama step without its noise, from t = 0.001 on, which
  leaves 0.1 grey levels of noise on a point mass.
- Training: the queries, keys and values of the attention start with √5 times their standard deviation. The warm-up is one step
  ahead: its first step has a 5000th of the learning rate, theirs has a rate of 0. The average's half-life of 887 thousand
  images is their decay of 0.9999 to 0.02 %. Batches hold each image once an epoch; theirs come from a shuffled buffer.
- Likelihood: bins of 2/255 around the levels −1 … 1, where theirs are k/128 − 1 … (k + 1)/128 − 1; both are right, and their
  models differ by this scaling.
- The published FID is the smallest of the checkpoints at every 50,000 steps, and bits/dim are those of the last one.
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
