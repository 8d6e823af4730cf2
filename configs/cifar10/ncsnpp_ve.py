"""NCSN++ continuous on CIFAR-10 with the VE SDE. The variant "deep" doubles the blocks.

Expected, from arXiv 2011.13456, Tables 2 and 3. Not yet reproduced here.

  ""      FID 2.38, after 1.3 M steps
  "deep"  FID 2.20 and IS 9.89, after 0.95 M steps

The published runs used batches of 128 on 4 V100, at 0.20 to 0.30 s a step. They sampled with
the predictor-corrector solver at 2000 evaluations.

The published run is configs/ve/cifar10_ncsnpp_continuous.py (and _deep_) of
yang-song/score_sde at 0acb9e0. Its images y are in [0, 1], with σ from 0.01 to 50. Its
network gets 2y − 1 and log σ. Our images are x = 2y − 1, with σ from 0.02 to 100 and the
label log(σ/2). This is the same process, with the same inputs and outputs of the network.
Its loss is half of the sum over pixels, clipped at a norm of 1. This is the same update as
the whole sum, clipped at 2.

This config differs from the published run in these points:

- Langevin's step size: ours comes from the norms of each image, with a limit. Theirs comes
  from the means over the batch.
- Prior: ours has a mean of 0. Theirs has a mean of 1/100 of its standard deviation.
- Training: as `ddpmpp_vp`, with a decay of 0.999.
- Choice of the checkpoint: the published FID is the smallest of the checkpoints at every
  50,000 steps.
"""

from ml_collections import ConfigDict

from score_sde.configs.cifar10 import ddpmpp_vp


def get_config(variant: str = "") -> ConfigDict:
    """Variants: "" or "deep"."""
    config = ddpmpp_vp.get_config(variant)
    config.sde = ConfigDict({"name": "ve", "sigma_min": 0.02, "sigma_max": 100.0})
    label = {"name": "log_sigma", "scale": 1.0, "gain": 0.5}
    config.parameterization = ConfigDict({"name": "scaled_score", "noise_label": label, "sigma_data": None})
    config.network.name = "ncsnpp"
    config.objective.reduce = "sum"
    config.optimizer.clip_norm = 2.0
    config.ema.half_lives_kimg = (88.7,)  # decay 0.999
    config.sampling.solver = ConfigDict(
        {
            "name": "predictor_corrector",
            # Inside, so that the corrector runs before the last step too.
            "predictor": {"name": "denoise_last", "solver": {"name": "reverse_diffusion"}},
            "corrector": {"name": "langevin", "snr": 0.16},
        }
    )
    config.sampling.grid.end = 1e-5
    return config
