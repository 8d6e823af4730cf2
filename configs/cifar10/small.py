"""A small U-Net on CIFAR-10, unconditional, for one CPU: the run whose pictures are in docs/results.md.

The variant "benchmark" is the network of benchmarks/unet.py instead, with 7.0 M parameters. The
variant "guided" is given the class, and training drops a tenth of the labels. docs/results.md has
numbers, hardware and time.
"""

from ml_collections import ConfigDict

from score_sde.configs import base
from score_sde.configs.cifar10.ddpmpp_vp import cifar10
from score_sde.configs.fashion_mnist.small import preconditioned, short_schedule


def get_config(variant: str = "") -> ConfigDict:
    """Variants: "", "benchmark" or "guided"."""
    if variant not in ("", "benchmark", "guided"):
        raise ValueError(f"small has the variants '', 'benchmark' and 'guided', got {variant!r}.")
    config = base.get_config()
    config.data = cifar10()
    config.data.augment.dequantize = True
    preconditioned(config, sigma_data=0.5)
    config.network.dropout = 0.0
    if variant == "guided":
        config.data.train.label_key = config.data.eval.label_key = "label"
        config.network.num_classes = 10
        config.task.condition_dropout = 0.1
    if variant != "benchmark":
        config.network.update({"channels": 32, "blocks_per_level": 1, "attention_resolutions": (8,)})
    short_schedule(config, num_steps=2000, batch_size=32, half_life_kimg=4.0)
    config.likelihood.batch_size = 100
    return config
