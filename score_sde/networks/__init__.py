"""Networks: Flax modules with plain fields, called as network(x, noise_label, condition, train). They know no SDE.

`NETWORKS` maps a config's name to what makes the network from its fields. "ddpmpp" is `UNet` as it stands, "ncsnpp" is
`UNet` with three other defaults; every field of either can be set.
"""

from collections.abc import Callable

from flax import linen as nn

from score_sde.networks.encoder import Encoder
from score_sde.networks.mlp import MLP
from score_sde.networks.unet import NCSNpp, UNet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "ddpmpp": UNet,
    "ncsnpp": NCSNpp,
    "mlp": MLP,
    "encoder": Encoder,
}
