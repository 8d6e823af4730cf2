"""PyTorch: one training step (forward, backward, Adam, EMA) and Heun sampling of another project's network.

`python -m benchmarks.workers.torch_peers diffusers` is the most similar U-Net of diffusers. `… edm
CHECKOUT` is EDM's network, which has the same architecture layer by layer.
"""

import copy
import itertools
import sys

import torch

from benchmarks.interleave import serve
from benchmarks.unet import BATCH_SIZE, HEUN_STEPS, SHAPE


def _edm(checkout):
    """SongUNet of NVlabs/edm."""
    sys.path.insert(0, checkout)
    from training.networks import SongUNet

    network = SongUNet(
        img_resolution=SHAPE[0],
        in_channels=SHAPE[-1],
        out_channels=SHAPE[-1],
        model_channels=64,
        channel_mult=[1, 2, 2],
        num_blocks=2,
        attn_resolutions=[16],
        dropout=0.1,
    )
    return network, lambda net, x, noise: net(x, noise, None), {}


def _diffusers():
    """UNet2DModel: it resamples by one convolution where the others have a residual block."""
    import diffusers

    network = diffusers.UNet2DModel(
        sample_size=SHAPE[0],
        in_channels=SHAPE[-1],
        out_channels=SHAPE[-1],
        layers_per_block=2,
        block_out_channels=(64, 128, 128),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        dropout=0.1,
    )
    return network, lambda net, x, noise: net(x, noise).sample, {"diffusers": diffusers.__version__}


NETWORKS = {"edm": _edm, "diffusers": _diffusers}


def _gflop_per_forward(network, call):
    """GFLOP of a forward pass of one image, by PyTorch's count."""
    from torch.utils.flop_counter import FlopCounterMode

    height, width, channels = SHAPE
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(network, torch.zeros(1, channels, height, width), torch.zeros(1))
    return counter.get_total_flops() / 1e9


def main(name: str, *checkout: str) -> None:
    torch.manual_seed(0)
    network, call, versions = NETWORKS[name](*checkout)
    cost = _gflop_per_forward(network, call)
    average = copy.deepcopy(network).eval()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    height, width, channels = SHAPE
    images = torch.randn(BATCH_SIZE, channels, height, width)

    def denoise(net, x, sigma):
        """EDM's D(x; σ)."""
        c_skip, c_out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25).sqrt()
        output = call(net, x / (sigma**2 + 0.25).sqrt(), sigma.log().flatten() / 4)
        return c_skip * x + c_out * output

    def train():
        sigma = (-1.2 + 1.2 * torch.randn(BATCH_SIZE, 1, 1, 1)).exp()
        estimate = denoise(network, images + sigma * torch.randn_like(images), sigma)
        loss = ((sigma**2 + 0.25) / (0.5 * sigma) ** 2 * (estimate - images) ** 2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1e-3)

    @torch.no_grad()
    def solve():
        ramp = torch.linspace(0, 1, HEUN_STEPS)
        sigmas = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        sigmas = torch.cat([sigmas, torch.zeros(1)])
        x = 80 * torch.randn_like(images)
        for sigma, following in itertools.pairwise(sigmas):
            batch_sigma = sigma.expand(BATCH_SIZE, 1, 1, 1)
            slope = (x - denoise(average, x, batch_sigma)) / sigma
            euler = x + (following - sigma) * slope
            if following > 0:
                again = (euler - denoise(average, euler, following.expand(BATCH_SIZE, 1, 1, 1))) / following
                euler = x + (following - sigma) * (slope + again) / 2
            x = euler

    facts = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "gflop_per_forward": cost,
        "torch": torch.__version__,
        **versions,
        "threads": torch.get_num_threads(),
    }
    serve({"train": train, "solve": solve}, facts)


if __name__ == "__main__":
    main(*sys.argv[1:])
