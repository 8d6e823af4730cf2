"""Your own images, from a folder. Set data.train.path and data.eval.path.

Images are cropped at the centre and resized to 64×64.

With labels=True (for both), the class of an image is the subfolder that it lies in. With
conditions={"embedding": "text.npy"} (for both), row i of the file [n, D] belongs to the i-th
image.
"""

from ml_collections import ConfigDict

from score_sde.configs.cifar10 import small


def get_config() -> ConfigDict:
    """No variants."""
    config = small.get_config()
    augment = {"random_flip": True, "dequantize": False}
    config.data = ConfigDict({"train": source(), "eval": source(), "augment": augment})
    config.network.update(
        {"channels": 128, "channel_multipliers": (1, 2, 2, 2), "blocks_per_level": 2, "attention_resolutions": (16,)}
    )
    config.network.dropout = 0.1
    config.optimizer.learning_rate = 2e-4
    config.optimizer.schedule = ConfigDict({"schedule": "constant", "warmup_steps": 1000})
    config.ema.half_lives_kimg = (500.0,)
    config.training.update({"num_steps": 200_000, "batch_size": 64, "sample_every": 5000, "checkpoint_every": 5000})
    return config


def source() -> ConfigDict:
    """A folder of images. Each call returns a new object, so that a field set in one source is not set in both."""
    return ConfigDict(
        {
            "name": "folder",
            "path": "",
            "image_size": 64,
            "channels": 3,
            "convert": True,
            "labels": False,
            "conditions": {},
        }
    )
