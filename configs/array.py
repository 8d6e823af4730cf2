"""Your own arrays, from .npy or .npz files: set data.train.path and data.eval.path. "points" has the network for points [n, d].

Without a variant, images [n, h, w, c] (uint8: 256 levels) and signals [n, length, c]; floating arrays are continuous data and
are taken as they are, unless value_range says what to map to [-1, 1]. What the network is told beside x:

  labels      --config.data.train.label_key=y --config.data.eval.label_key=y
  a vector    --config.data.train.conditions='{"embedding": "text"}' (and of data.eval)

where y and text are arrays of the file (or text.npy beside an .npy file), one row for each example. Labels are integers,
or texts, which are the names of the classes.
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
    """An array file; fields that are None can be set by flags."""
    value_range = {"value_range": placeholder(tuple), "levels": placeholder(int)}
    return ConfigDict(
        {"name": "array", "path": "", "key": "x", "label_key": placeholder(str), "conditions": {}, **value_range}
    )
