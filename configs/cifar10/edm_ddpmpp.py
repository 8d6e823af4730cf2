"""EDM's training of DDPM++ on CIFAR-10, unconditional ("") or class-conditional ("cond").

Expected, from arXiv 2206.00364, Table 2. Not yet reproduced here.

  ""      FID 1.97
  "cond"  FID 1.79

The published runs took 200 M images in batches of 512 on 8 V100 in 2 days, with
augmentation. The published FID is the best of three samplings of 50,000, with 35
evaluations.

The published run is train.py --arch=ddpmpp (--cond=1 for "cond") of NVlabs/edm at 008a4e5,
with its defaults. This config differs from it in these points:

- Augmentation: only flips. Their scalings, rotations and shifts, which they also give to the
  network, are not here yet.
- Warm-up and ramp-up of the average: ours are one batch ahead. Theirs begin with a rate of 0
  and an average that is the parameters.
- A gradient that is not finite: ours stops the run (training.nonfinite). Theirs is set to 0
  or ±1e5.
- Attention: queries, keys and values start with √5 times their standard deviation.
- Labels in "cond": our vectors start with a variance of 1, theirs with 0.14.
- Batches: ours hold each image once an epoch. Theirs are shuffled over a window.
- Sampling: our solver state is in float32, theirs in float64.
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
    config.objective.reduce = "sum"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.clip_norm = None
    config.optimizer.schedule.warmup_steps = 19_531  # 10 M images
    config.ema.half_lives_kimg = (500.0,)
    config.ema.rampup_ratio = 0.05
    config.likelihood.update({"rtol": 1e-4, "atol": 1e-4, "num_repeats": 1})
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
