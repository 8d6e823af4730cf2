"""NCSN++ continuous on CIFAR-10 with the VE SDE. "deep" doubles the blocks.

Expected, from arXiv 2011.13456, Tables 2 and 3, after 1.3 M steps (0.95 M for deep) of batch 128 on 4 V100 at .20–.30 s:
FID 2.38; deep: FID 2.20, IS 9.89, with the predictor-corrector solver at 2000 evaluations. Not yet reproduced here.

Differs from it in: images in [-1, 1] instead of [0, 1], so that σ is half as large beside them; EMA with a ramp-up.
"""

from ml_collections import ConfigDict

from score_sde.configs.cifar10 import ddpmpp_vp


def get_config(variant: str = "") -> ConfigDict:
    """Variants: "" or "deep"."""
    config = ddpmpp_vp.get_config(variant)
    config.sde = ConfigDict({"name": "ve", "sigma_min": 0.01, "sigma_max": 50.0})
    label = {"name": "log_sigma", "scale": 1.0, "gain": 1.0}
    config.parameterization = ConfigDict({"name": "scaled_score", "noise_label": label, "sigma_data": None})
    config.network.name = "ncsnpp"
    config.ema.half_lives_kimg = (88.7,)  # decay 0.999
    config.sampling.solver = ConfigDict(
        {
            "name": "predictor_corrector",
            "predictor": {"name": "reverse_diffusion"},
            "corrector": {"name": "langevin", "snr": 0.16},
        }
    )
    config.sampling.grid.end = 1e-5
    return config
