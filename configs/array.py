"""Your own arrays, from .npy or .npz files. Set data.train.path and data.eval.path.

Without a variant, x is images [n, h, w, c] or signals [n, length, c]. uint8 arrays have 256
levels. The variant "points" has the network for points [n, d].

Floating arrays are continuous data, and their values stay as they are. value_range says
which range to map to [-1, 1] instead.

The network can be told more about each example than x:

  a label     --config.data.train.label_key=y --config.data.eval.label_key=y
  a vector    --config.data.train.conditions='{"embedding": "text"}' (and for data.eval)

Here y and text are arrays of the .npz file, with one row for each example. Beside an .npy
file they are y.npy and text.npy. Labels are integers, or texts that name the classes.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from score_sde.configs import density2d, folder


def get_config(variant: str = "") -> ConfigDict:
    """Variants: "" or "points"."""
    if variant not in ("", "points"):
        raise ValueError(f"array has the variants '' and 'points', got {variant!r}.")
    config = density2d.get_config() if variant == "points" else folder.get_config()
    augment = {"random_flip": False, "dequantize": False}
    config.data = ConfigDict({"train": source(), "eval": source(), "augment": augment})
    if variant == "points":
        config.training.update({"eval_every": 1000, "checkpoint_every": 1000})
        config.likelihood.divergence = ConfigDict({"name": "hutchinson", "num_probes": 1, "kind": "rademacher"})
    return config


def source() -> ConfigDict:
    """An array file. Fields that are None can be set by flags."""
    value_range = {"value_range": placeholder(tuple), "levels": placeholder(int)}
    return ConfigDict(
        {"name": "array", "path": "", "key": "x", "label_key": placeholder(str), "conditions": {}, **value_range}
    )
