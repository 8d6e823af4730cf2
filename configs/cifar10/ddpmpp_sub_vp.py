"""DDPM++ continuous on CIFAR-10 with the sub-VP SDE. The variant "deep" doubles the blocks.

Expected, from arXiv 2011.13456, Tables 2 and 3. Not yet reproduced here.

  ""      FID 2.61 and 3.02 bits/dim
  "deep"  FID 2.41 and 2.99 bits/dim

The cost is the same as for `ddpmpp_vp`.

The published run is configs/subvp/cifar10_ddpmpp_continuous.py (and _deep_) of
yang-song/score_sde at 0acb9e0. This config differs from it as `ddpmpp_vp` differs from its
own published run, with one exception: the published last step leaves 0.02 grey levels of
noise on a point mass.
"""

from ml_collections import ConfigDict

from score_sde.configs.cifar10 import ddpmpp_vp


def get_config(variant: str = "") -> ConfigDict:
    """Variants: "" or "deep"."""
    config = ddpmpp_vp.get_config(variant)
    config.sde = ConfigDict({"name": "sub_vp", "beta_min": 0.1, "beta_max": 20.0})
    return config
