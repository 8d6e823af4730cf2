"""EDM's training of DDPM++ on CIFAR-10, unconditional ("") or class-conditional ("cond").

Expected, from arXiv 2206.00364, Table 2, after 200 M images of batch 512 on 8 V100 in 2 days: FID 1.97, conditional 1.79
(best of three samplings of 50,000, 35 evaluations), with augmentation. Not yet reproduced here.

Differs from it in: only flips; their other augmentations (with the augmentation as a condition) are not here yet.
"""

from ml_collections import ConfigDict

from score_sde.configs.cifar10 import ddpmpp_vp


def get_config(variant: str = "") -> ConfigDict:
    """Variants: "" or "cond"."""
    if variant not in ("", "cond"):
        raise ValueError(f"edm_ddpmpp has the variants '' and 'cond', got {variant!r}.")
    config = ddpmpp_vp.get_config()
    edm(config)
    config.network.channel_multipliers = (2, 2, 2)
    config.network.dropout = 0.13
    if variant == "cond":
        config.data.train.label_key = config.data.eval.label_key = "label"
        config.network.num_classes = 10
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule.warmup_steps = 20_000  # 10 M images
    config.ema.half_lives_kimg = (500.0,)
    config.training.batch_size = 512
    config.training.num_steps = 390_625
    return config


def edm(config: ConfigDict) -> None:
    """Sets the SDE, preconditioning, loss and sampler of EDM."""
    config.sde = ConfigDict({"name": "edm", "sigma_max": 80.0})
    label = {"name": "log_sigma", "scale": 0.25, "gain": 1.0}
    config.parameterization = ConfigDict({"name": "edm", "noise_label": label, "sigma_data": 0.5})
    config.objective.weighting = ConfigDict({"name": "edm", "sigma_data": 0.5})
    config.objective.time_sampler = ConfigDict({"name": "log_normal", "mean": -1.2, "std": 1.2})
    config.sampling.solver = ConfigDict({"name": "edm_heun"})
    config.sampling.grid = ConfigDict({"name": "edm_rho", "num_steps": 18, "end": 0.002, "rho": 7.0, "to_zero": True})
    config.likelihood.t_min = 0.002
