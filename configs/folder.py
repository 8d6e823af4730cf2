"""Your own images, from a folder: set data.train.path and data.eval.path. Resized and centre-cropped to 64×64.

With labels=True (of both), each image's class is the subfolder that it lies in. With conditions={"embedding": "text.npy"} (of
both), row i of the file [n, D] goes with the i-th image.
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
    """A folder of images; each call gives another object, as setting a field of one source must not set it in both."""
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
