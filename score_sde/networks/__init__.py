"""Networks: Flax modules with plain fields, called as network(x, noise_label, condition, train). They know no SDE.

`NETWORKS` maps a config's name to what makes the network from its fields.
"""

from score_sde.networks.unet import DDPMpp, NCSNpp, UNet

NETWORKS = {"unet": UNet, "ddpmpp": DDPMpp, "ncsnpp": NCSNpp}
