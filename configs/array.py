"""Your own arrays, from .npy or .npz files: set data.train.path and data.eval.path, and network.name="mlp" for points.

Images are [n, h, w, c] (uint8: 256 levels), signals [n, length, c]; floating arrays are continuous data.
"""

from ml_collections import ConfigDict

from configs import folder


def get_config() -> ConfigDict:
    """No variants."""
    config = folder.get_config()
    source = {"name": "array", "path": "", "key": "x"}
    config.data = ConfigDict({"train": source, "eval": source, "augment": {"random_flip": False, "dequantize": False}})
    return config
