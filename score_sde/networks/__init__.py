"""Networks: Flax modules with plain fields, called as network(x, noise_label, condition, train).

A network knows no SDE. `NETWORKS` maps a config name to the function that builds the network from
its fields. "ddpmpp" is `UNet` with its defaults. "ncsnpp", "ddpm" and "adm" are `UNet` with other
defaults. In all, every field can be set. The published sizes of `presets.PRESETS` are networks with
fields set.
"""

import functools
from collections.abc import Callable

from flax import linen as nn

from score_sde.networks.dit import DiT, SiT
from score_sde.networks.edm2 import EDM2UNet
from score_sde.networks.encoder import Encoder
from score_sde.networks.jit import JiT
from score_sde.networks.mlp import MLP
from score_sde.networks.presets import PRESETS
from score_sde.networks.unet import ADM, DDPM, NCSNpp, UNet
from score_sde.networks.unet2d_condition import UNet2DCondition
from score_sde.networks.uvit import UViT

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "ddpmpp": UNet,
    "ncsnpp": NCSNpp,
    "ddpm": DDPM,
    "adm": ADM,
    "edm2": EDM2UNet,
    "unet2d_condition": UNet2DCondition,
    "mlp": MLP,
    "encoder": Encoder,
    "dit": DiT,
    "sit": SiT,
    "uvit": UViT,
    "jit": JiT,
}
NETWORKS |= {name: functools.partial(NETWORKS[preset.network], **preset.fields) for name, preset in PRESETS.items()}
