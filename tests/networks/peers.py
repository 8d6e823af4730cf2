"""Parameters of other people's U-Nets under our names, for the comparison of outputs and gradients.

The peers number their modules in the order of the call, so that walking our architecture in that order names them.
A "conv" here is a pair (weight, bias) in our layout: [*space, in, out] and [out].
"""

import numpy as np
from flax import traverse_util

from score_sde.networks import UNet


def walk(net: UNet, height: int) -> list[tuple[str, str]]:
    """The (kind, name) of each of our modules in the order of the call; kinds are block, attention, input, output."""
    steps, levels = [], len(net.channel_multipliers)

    def attend(level: int, name: str) -> list[tuple[str, str]]:
        return [("attention", name)] if height // 2**level in net.attention_resolutions else []

    for level in range(levels):
        for i in range(net.blocks_per_level):
            steps += [("block", f"encoder_{level}_block_{i}"), *attend(level, f"encoder_{level}_attention_{i}")]
        if level + 1 < levels:
            steps += [("block", f"encoder_{level}_down")]
            steps += [("input", f"encoder_{level}_input")] if net.progressive_input != "none" else []
    steps += [("block", "middle_block_0"), ("attention", "middle_attention"), ("block", "middle_block_1")]
    for level in reversed(range(levels)):
        steps += [("block", f"decoder_{level}_block_{i}") for i in range(net.blocks_per_level + 1)]
        steps += attend(level, f"decoder_{level}_attention")
        steps += [("output", f"decoder_{level}_output")] if net.progressive_output == "skip" else []
        steps += [("block", f"decoder_{level}_up")] if level else []
    return steps + ([("output", "output")] if net.progressive_output != "skip" else [])


def from_score_sde_jax(weights: dict[str, np.ndarray], net: UNet, height: int) -> dict:
    """Names in the 2021 Flax tree -> ours."""
    ours, count = {}, {}

    def take(kind: str) -> str:
        count[kind] = count.get(kind, -1) + 1
        return f"{kind}_{count[kind]}"

    def copy(name: str, peer: str, kernel: str = "kernel", bias: str = "bias") -> None:
        kernel = weights[f"{peer}/{kernel}"]
        # 1×1 convolutions are matrices in ours.
        ours[f"{name}/kernel"] = kernel[0, 0] if kernel.shape[:2] == (1, 1) else kernel
        ours[f"{name}/bias"] = weights[f"{peer}/{bias}"]

    def norm(name: str, peer: str) -> None:
        ours[f"{name}/scale"], ours[f"{name}/bias"] = weights[f"{peer}/scale"], weights[f"{peer}/bias"]

    if net.noise_embedding == "fourier":
        ours["embedding/fourier/frequencies"] = weights["GaussianFourierProjection_0/W"]
    copy("embedding/dense_0", take("Dense"))
    copy("embedding/dense_1", take("Dense"))
    copy("input", take("Conv"))
    for kind, name in walk(net, height):
        if kind == "block":
            peer = take("ResnetBlockBigGANpp")
            norm(f"{name}/norm_0", f"{peer}/GroupNorm_0")
            norm(f"{name}/norm_1", f"{peer}/GroupNorm_1")
            copy(f"{name}/conv_0", f"{peer}/Conv_0")
            copy(f"{name}/conv_1", f"{peer}/Conv_1")
            copy(f"{name}/embedding", f"{peer}/Dense_0")
            if f"{peer}/Conv_2/kernel" in weights:
                copy(f"{name}/skip", f"{peer}/Conv_2")
        elif kind == "attention":
            peer = take("AttnBlockpp")
            norm(f"{name}/norm", f"{peer}/GroupNorm_0")
            for end, peer_end in (("kernel", "W"), ("bias", "b")):
                qkv = [weights[f"{peer}/NIN_{i}/{peer_end}"] for i in range(3)]
                ours[f"{name}/qkv/{end}"] = np.concatenate(qkv, axis=-1)
            copy(f"{name}/out", f"{peer}/NIN_3", "W", "b")
        elif kind == "input" and net.progressive_input == "residual":
            copy(name, take("Downsample") + "/Conv2d_0", "weight")
        elif kind == "input":
            copy(name, take("Combine") + "/Conv_0")
        else:
            norm(f"{name}_norm", take("GroupNorm"))
            copy(name, take("Conv"))
    return traverse_util.unflatten_dict({k: np.asarray(v, np.float32) for k, v in ours.items()}, sep="/")


def from_edm(weights: dict[str, np.ndarray], net: UNet, height: int) -> dict:
    """Names in EDM's state_dict (a SongUNet inside EDMPrecond) -> ours."""
    ours = {}

    def copy(name: str, peer: str, bias: bool = True) -> None:
        kernel = weights[f"model.{peer}.weight"]
        kernel = kernel[:, :, 0, 0] if kernel.shape[2:] == (1, 1) else kernel
        ours[f"{name}/kernel"] = kernel.T if kernel.ndim == 2 else kernel.transpose(2, 3, 1, 0)
        if bias:
            ours[f"{name}/bias"] = weights[f"model.{peer}.bias"]

    def norm(name: str, peer: str) -> None:
        ours[f"{name}/scale"], ours[f"{name}/bias"] = weights[f"model.{peer}.weight"], weights[f"model.{peer}.bias"]

    def attention(name: str, peer: str) -> None:
        norm(f"{name}/norm", f"{peer}.norm2")
        copy(f"{name}/qkv", f"{peer}.qkv")
        for end in ("kernel", "bias"):
            # EDM interleaves q, k, v of a channel; ours stand one after another.
            value = ours[f"{name}/qkv/{end}"]
            split = value.reshape(value.shape[:-1] + (-1, 3))
            ours[f"{name}/qkv/{end}"] = np.concatenate([split[..., i] for i in range(3)], axis=-1)
        copy(f"{name}/out", f"{peer}.proj")

    if net.noise_embedding == "fourier":
        ours["embedding/fourier/frequencies"] = weights["model.map_noise.freqs"]
    label = weights["model.map_label.weight"].T.astype(np.float32) * np.sqrt(np.float32(net.num_classes))
    # EDM's map of a one-hot label has a bias, and all zeros for "no label".
    ours["embedding/label"] = np.concatenate([label, 0 * label[:1]]) + weights["model.map_label.bias"]
    copy("embedding/embedding", "map_augment", bias=False)
    copy("embedding/dense_0", "map_layer0")
    copy("embedding/dense_1", "map_layer1")
    copy("input", f"enc.{height}x{height}_conv")
    for kind, name in walk(net, height):
        if kind == "block":
            peer = edm_name(name, net, height)
            for i in (0, 1):
                norm(f"{name}/norm_{i}", f"{peer}.norm{i}")
                copy(f"{name}/conv_{i}", f"{peer}.conv{i}")
            copy(f"{name}/embedding", f"{peer}.affine")
            if f"model.{peer}.skip.weight" in weights:
                copy(f"{name}/skip", f"{peer}.skip")
        elif kind == "attention":
            attention(name, edm_name(name, net, height))
        elif kind == "input":
            side = height // 2 ** (int(name.split("_")[1]) + 1)
            copy(name, f"enc.{side}x{side}_aux_residual")
        else:
            norm("output_norm", f"dec.{height}x{height}_aux_norm")
            copy("output", f"dec.{height}x{height}_aux_conv")
    return traverse_util.unflatten_dict({k: np.asarray(v, np.float32) for k, v in ours.items()}, sep="/")


def edm_name(name: str, net: UNet, height: int) -> str:
    """Ours -> EDM's, where attention belongs to the block before it."""
    lowest = len(net.channel_multipliers) - 1
    if name.startswith("middle"):
        side = height // 2**lowest
        return f"dec.{side}x{side}_in{1 if name == 'middle_block_1' else 0}"
    part, level, what, *index = name.split("_")
    level = int(level)
    if what in ("down", "up"):
        side = height // 2 ** (level + (1 if what == "down" else -1))
        return f"{part[:3]}.{side}x{side}_{what}"
    side = height // 2**level
    return f"{part[:3]}.{side}x{side}_block{index[0] if index else net.blocks_per_level}"
