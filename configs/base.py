"""The parent of all configs, with every section and every default.

It is a VP SDE with a small DDPM++ network on the embedded digits.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """A section with a `name` is the class of that name in the catalogue. The other fields are its arguments."""
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "train": {"name": "digits", "split": "train", "labels": False},
                "eval": {"name": "digits", "split": "test", "labels": False},
                "augment": {"random_flip": False, "dequantize": False},
                "on_error": "raise",
            },
            "sde": {"name": "vp", "beta_min": 0.1, "beta_max": 20.0},
            "parameterization": {"name": "eps", "noise_label": {"name": "time", "scale": 999.0}, "sigma_data": 1.0},
            "network": {
                "name": "ddpmpp",
                "channels": 64,
                "channel_multipliers": (1, 2, 2),
                "blocks_per_level": 2,
                "attention_resolutions": (16,),
                "dropout": 0.1,
                "num_classes": placeholder(int),  # None: of the data
                "embedding_dim": placeholder(int),
                "dtype": "float32",
                "remat": "none",
            },
            "objective": {
                "name": "denoising",
                "weighting": {"name": "sigma_squared"},
                "time_sampler": {"name": "uniform", "t_min": 1e-5},
                "reduce": "mean",
            },
            "task": {"name": "denoising", "condition_dropout": 0.0},
            "optimizer": {
                "name": "adam",
                "learning_rate": 2e-4,
                "schedule": {"schedule": "constant", "warmup_steps": 5000},
                "clip_norm": 1.0,
                "accumulation_steps": 1,
            },
            # Half-lives in thousands of images; the ramp-up keeps a half-life below this part of the images seen so far.
            "ema": {"half_lives_kimg": (887.0,), "rampup_ratio": 0.05},
            # Devices: batches over data · fsdp, parameters over fsdp (and tensor, where the network can). None: all the rest.
            "mesh": {"num_devices": None, "data": None, "fsdp": 1, "tensor": 1},
            "training": {
                "num_steps": 100_000,
                "batch_size": 128,
                "eval_batch_size": 128,
                "log_every": 100,
                "eval_every": 5000,
                "eval_levels": 9,
                "sample_every": 5000,
                "checkpoint_every": 5000,
                "keep_checkpoints": 2,
                "keep_every": 50_000,
                "nonfinite": "stop",
                "max_skips": 100,
            },
            "sampling": {
                "solver": {"name": "ddim", "eta": 0.0},
                "grid": {"name": "uniform", "num_steps": 100, "end": 1e-3},
                "num_preview": 16,
            },
            "likelihood": {
                "t_min": 1e-5,
                "rtol": 1e-4,
                "atol": 1e-4,
                "divergence": {"name": "hutchinson", "num_probes": 1, "kind": "rademacher"},
                "num_repeats": 1,
                "batch_size": 128,
            },
        }
    )
