"""The quickstart: a small U-Net on the 8×8 digits, given the digit.

Training drops a tenth of the labels, so the model can be guided by its digit.

It takes about three minutes on two CPU cores. Variants choose the SDE: "vp" (default),
"sub_vp", "ve", "cosine", "flow".
"""

from ml_collections import ConfigDict

from score_sde.configs import base

SDES = {
    "vp": {"name": "vp", "beta_min": 0.1, "beta_max": 20.0},
    "sub_vp": {"name": "sub_vp", "beta_min": 0.1, "beta_max": 20.0},
    "ve": {"name": "ve", "sigma_min": 0.01, "sigma_max": 50.0},
    "cosine": {"name": "cosine", "offset": 0.008},
    "flow": {"name": "flow"},
}
SIGMA_DATA = 0.75  # standard deviation of the digits in [-1, 1]


def get_config(variant: str = "vp") -> ConfigDict:
    """The variant is the name of an SDE."""
    if variant not in SDES:
        raise ValueError(f"quickstart has the variants {sorted(SDES)}, got {variant!r}.")
    config = base.get_config()
    config.sde = ConfigDict(SDES[variant])
    config.data.train.labels = config.data.eval.labels = True
    # The likelihood needs a density, so the 17 grey levels are spread over their bins in training too.
    config.data.augment.dequantize = True
    label = {"name": "log_sigma", "scale": 0.25, "gain": 1.0}
    config.parameterization = ConfigDict({"name": "edm", "noise_label": label, "sigma_data": SIGMA_DATA})
    config.objective.weighting = ConfigDict({"name": "edm", "sigma_data": SIGMA_DATA})
    config.objective.time_sampler = ConfigDict({"name": "log_normal", "mean": -1.0, "std": 1.4})
    config.network.update(
        {
            "channels": 32,
            "channel_multipliers": (1, 2),
            "blocks_per_level": 1,
            "attention_resolutions": (4,),
            "dropout": 0.0,
            "num_classes": 10,
        }
    )
    config.task.condition_dropout = 0.1
    num_steps = 400
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = ConfigDict({"schedule": "cosine", "warmup_steps": 100, "decay_steps": num_steps})
    config.ema.half_lives_kimg = (5.0,)
    config.training.update(
        {
            "num_steps": num_steps,
            "batch_size": 64,
            "log_every": 10,
            "eval_every": 0,
            "sample_every": 0,
            "checkpoint_every": 200,
        }
    )
    config.sampling.solver = ConfigDict({"name": "ancestral"})
    config.sampling.grid = ConfigDict({"name": "log_snr_uniform", "num_steps": 100, "end": 1e-3})
    if variant == "flow" or variant == "cosine":
        config.sampling.grid.start = 0.999
    config.likelihood.rtol = config.likelihood.atol = 1e-3
    config.likelihood.batch_size = 100
    return config
