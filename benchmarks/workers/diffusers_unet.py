"""diffusers on PyTorch: the nearest U-Net it has, one training step (forward, backward, Adam, EMA) and Heun sampling."""

import copy
import itertools

import diffusers
import torch

from benchmarks.interleave import serve
from benchmarks.unet import BATCH_SIZE, HEUN_STEPS, SHAPE


def main() -> None:
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(64, 128, 128),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        dropout=0.1,
    )
    average = copy.deepcopy(network).eval()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    height, width, channels = SHAPE
    images = torch.randn(BATCH_SIZE, channels, height, width)

    def denoise(net, x, sigma):
        """EDM's D(x; σ)."""
        c_skip, c_out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25).sqrt()
        output = net(x / (sigma**2 + 0.25).sqrt(), sigma.log().flatten() / 4).sample
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
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "threads": torch.get_num_threads(),
    }
    serve({"train": train, "solve": solve}, facts)


if __name__ == "__main__":
    main()
