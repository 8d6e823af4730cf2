"""Parameters of other people's U-Nets under our names, for the comparison of outputs and gradients.

The peers number or name their modules in the order of the call. So a walk over our architecture
finds each module. The maps are differentiable, so gradients can be compared in the peer's own
parameters.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
from flax import traverse_util
from jax import Array

from score_sde.networks import UNet

Weights = Mapping[str, Array]


def walk(net: UNet, height: int) -> Iterator[tuple[str, str]]:
    """Yields (kind, our name) in the order of the call; a kind is block, attention, input or output."""
    levels = range(len(net.channel_multipliers))
    attended = [height // 2**level in net.attention_resolutions for level in levels]
    for level in levels:
        for i in range(net.blocks_per_level):
            yield "block", f"encoder_{level}_block_{i}"
            if attended[level]:
                yield "attention", f"encoder_{level}_attention_{i}"
        if level + 1 < len(levels):
            yield "block", f"encoder_{level}_down"
            if net.progressive_input != "none":
                yield "input", f"encoder_{level}_input"
    yield from (("block", "middle_block_0"), ("attention", "middle_attention"), ("block", "middle_block_1"))
    for level in reversed(levels):
        yield from (("block", f"decoder_{level}_block_{i}") for i in range(net.blocks_per_level + 1))
        if attended[level]:
            yield "attention", f"decoder_{level}_attention"
        if net.progressive_output == "skip":
            yield "output", f"decoder_{level}_output"
        if level:
            yield "block", f"decoder_{level}_up"
    if net.progressive_output != "skip":
        yield "output", "output"


class ScoreSDE:
    """The 2021 Flax tree: modules are numbered by class in the order of the call."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.ours, self.count = weights, {}, Counter()

    def __call__(self, net: UNet, height: int) -> dict[str, Any]:
        if net.noise_embedding == "fourier":
            self.ours["embedding/fourier/frequencies"] = self.weights["GaussianFourierProjection_0/W"]
        self.linear("embedding/dense_0", self.next("Dense"))
        self.linear("embedding/dense_1", self.next("Dense"))
        self.linear("input", self.next("Conv"))
        for kind, name in walk(net, height):
            getattr(self, kind)(name)
        return traverse_util.unflatten_dict(self.ours, sep="/")

    def next(self, kind: str) -> str:
        self.count[kind] += 1
        return f"{kind}_{self.count[kind] - 1}"

    def linear(self, name: str, peer: str, kernel: str = "kernel", bias: str = "bias") -> None:
        weight = self.weights[f"{peer}/{kernel}"]
        self.ours[f"{name}/kernel"] = weight[0, 0] if weight.shape[:2] == (1, 1) else weight
        self.ours[f"{name}/bias"] = self.weights[f"{peer}/{bias}"]

    def norm(self, name: str, peer: str) -> None:
        for end in ("scale", "bias"):
            self.ours[f"{name}/{end}"] = self.weights[f"{peer}/{end}"]

    def block(self, name: str) -> None:
        peer = self.next("ResnetBlockBigGANpp")
        for i in (0, 1):
            self.norm(f"{name}/norm_{i}", f"{peer}/GroupNorm_{i}")
            self.linear(f"{name}/conv_{i}", f"{peer}/Conv_{i}")
        self.linear(f"{name}/embedding", f"{peer}/Dense_0")
        if f"{peer}/Conv_2/kernel" in self.weights:
            self.linear(f"{name}/skip", f"{peer}/Conv_2")

    def attention(self, name: str) -> None:
        peer = self.next("AttnBlockpp")
        self.norm(f"{name}/norm", f"{peer}/GroupNorm_0")
        for end, peer_end in (("kernel", "W"), ("bias", "b")):
            qkv = [self.weights[f"{peer}/NIN_{i}/{peer_end}"] for i in range(3)]
            self.ours[f"{name}/qkv/{end}"] = jnp.concatenate(qkv, axis=-1)
        self.linear(f"{name}/out", f"{peer}/NIN_3", "W", "b")

    def input(self, name: str) -> None:
        self.linear(name, self.next("Downsample") + "/Conv2d_0", "weight")

    def output(self, name: str) -> None:
        self.norm(f"{name}_norm", self.next("GroupNorm"))
        self.linear(name, self.next("Conv"))


class ScoreSDEPytorch:
    """score_sde_pytorch's state_dict: one list of modules, numbered in the order of the call. Also of its DDPM."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.ours, self.count = weights, {}, 0

    def __call__(self, net: UNet, height: int) -> dict[str, Any]:
        if net.noise_embedding == "fourier":
            self.ours["embedding/fourier/frequencies"] = self.weights[f"{self.next()}.W"]
        for name in ("embedding/dense_0", "embedding/dense_1", "input"):
            self.linear(name, self.next())
        for kind, name in walk(net, height):
            getattr(self, kind)(name)
        return traverse_util.unflatten_dict(self.ours, sep="/")

    def next(self) -> int:
        self.count += 1
        return self.count - 1

    def linear(self, name: str, peer: int | str) -> None:
        if f"{peer}.W" in self.weights:  # a map over channels, kept as [in, out]
            self.ours[f"{name}/kernel"], self.ours[f"{name}/bias"] = (self.weights[f"{peer}.{end}"] for end in "Wb")
            return
        self.ours[f"{name}/kernel"] = torch_kernel(self.weights[f"{peer}.weight"])
        self.ours[f"{name}/bias"] = self.weights[f"{peer}.bias"]

    def norm(self, name: str, peer: int | str) -> None:
        for end, peer_end in (("scale", "weight"), ("bias", "bias")):
            self.ours[f"{name}/{end}"] = self.weights[f"{peer}.{peer_end}"]

    def block(self, name: str) -> None:
        peer = self.next()
        if f"{peer}.GroupNorm_0.weight" not in self.weights:  # DDPM's change of resolution
            return self.linear(f"{name}/conv", f"{peer}.Conv_0")
        for i in (0, 1):
            self.norm(f"{name}/norm_{i}", f"{peer}.GroupNorm_{i}")
            self.linear(f"{name}/conv_{i}", f"{peer}.Conv_{i}")
        self.linear(f"{name}/embedding", f"{peer}.Dense_0")
        for shortcut in ("Conv_2", "NIN_0"):  # of NCSN++, of DDPM
            if any(key.startswith(f"{peer}.{shortcut}.") for key in self.weights):
                self.linear(f"{name}/skip", f"{peer}.{shortcut}")
        return None

    def attention(self, name: str) -> None:
        peer = self.next()
        self.norm(f"{name}/norm", f"{peer}.GroupNorm_0")
        for end, peer_end in (("kernel", "W"), ("bias", "b")):
            qkv = [self.weights[f"{peer}.NIN_{i}.{peer_end}"] for i in range(3)]
            self.ours[f"{name}/qkv/{end}"] = jnp.concatenate(qkv, axis=-1)
        self.linear(f"{name}/out", f"{peer}.NIN_3")

    def input(self, name: str) -> None:
        peer = self.next()
        self.linear(name, f"{peer}.{'Conv_0' if f'{peer}.Conv_0.weight' in self.weights else 'Conv2d_0'}")

    def output(self, name: str) -> None:
        self.norm(f"{name}_norm", self.next())
        self.linear(name, self.next())


def torch_kernel(weight: Array) -> Array:
    """[out, in] or [out, in, *window] with the window first and the features last; a window of 1 × 1 is left out."""
    weight = weight[:, :, 0, 0] if weight.shape[2:] == (1, 1) else weight
    return weight.T if weight.ndim == 2 else weight.transpose(2, 3, 1, 0)


class EDM:
    """EDM's state_dict of a SongUNet: modules are named by resolution, and attention belongs to the block before it."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.ours = weights, {}

    def __call__(self, net: UNet, height: int) -> dict[str, Any]:
        self.net, self.height = net, height
        if net.noise_embedding == "fourier":
            self.ours["embedding/fourier/frequencies"] = self.weights["model.map_noise.freqs"]
        label = jnp.sqrt(jnp.float32(net.num_classes)) * self.weights["model.map_label.weight"].T
        # EDM maps a one-hot label, or zeros for none, linearly and with a bias.
        rows = jnp.concatenate([label, jnp.zeros_like(label[:1])])
        self.ours["embedding/label"] = rows + self.weights["model.map_label.bias"][None]
        self.linear("embedding/embedding", "map_augment", bias=False)
        self.linear("embedding/dense_0", "map_layer0")
        self.linear("embedding/dense_1", "map_layer1")
        self.linear("input", f"enc.{height}x{height}_conv")
        for kind, name in walk(net, height):
            getattr(self, kind)(name)
        return traverse_util.unflatten_dict(self.ours, sep="/")

    def peer(self, name: str) -> str:
        part, *rest = name.split("_")
        if part == "middle":
            side = self.height // 2 ** (len(self.net.channel_multipliers) - 1)
            return f"dec.{side}x{side}_in{1 if name == 'middle_block_1' else 0}"
        level, what, *index = rest
        shift = {"down": 1, "up": -1}.get(what, 0)
        side = self.height // 2 ** (int(level) + shift)
        block = what if shift else f"block{index[0] if index else self.net.blocks_per_level}"
        return f"{part[:3]}.{side}x{side}_{block}"

    def linear(self, name: str, peer: str, *, bias: bool = True) -> None:
        self.ours[f"{name}/kernel"] = torch_kernel(self.weights[f"model.{peer}.weight"])
        if bias:
            self.ours[f"{name}/bias"] = self.weights[f"model.{peer}.bias"]

    def norm(self, name: str, peer: str) -> None:
        for end, peer_end in (("scale", "weight"), ("bias", "bias")):
            self.ours[f"{name}/{end}"] = self.weights[f"model.{peer}.{peer_end}"]

    def block(self, name: str) -> None:
        peer = self.peer(name)
        for i in (0, 1):
            self.norm(f"{name}/norm_{i}", f"{peer}.norm{i}")
            self.linear(f"{name}/conv_{i}", f"{peer}.conv{i}")
        self.linear(f"{name}/embedding", f"{peer}.affine")
        if f"model.{peer}.skip.weight" in self.weights:
            self.linear(f"{name}/skip", f"{peer}.skip")

    def attention(self, name: str) -> None:
        peer = self.peer(name)
        self.norm(f"{name}/norm", f"{peer}.norm2")
        self.linear(f"{name}/qkv", f"{peer}.qkv")
        for end in ("kernel", "bias"):
            # EDM interleaves the q, k, v of a channel; ours stand one after another.
            interleaved = self.ours[f"{name}/qkv/{end}"]
            self.ours[f"{name}/qkv/{end}"] = jnp.concatenate([interleaved[..., i::3] for i in range(3)], axis=-1)
        self.linear(f"{name}/out", f"{peer}.proj")

    def input(self, name: str) -> None:
        side = self.height // 2 ** (int(name.split("_")[1]) + 1)
        self.linear(name, f"enc.{side}x{side}_aux_residual")

    def output(self, name: str) -> None:
        self.norm(f"{name}_norm", f"dec.{self.height}x{self.height}_aux_norm")
        self.linear(name, f"dec.{self.height}x{self.height}_aux_conv")
