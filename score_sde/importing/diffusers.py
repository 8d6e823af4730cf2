"""The names and the config of diffusers' UNet2DModel.

Source: diffusers, models/unets/unet_2d.py and unet_2d_blocks.py.
"""

import functools
from collections.abc import Collection, Mapping
from typing import Any

from score_sde.importing.mapping import Entry, after, flipped, joined, kernel, linear, norm, same, with_null_row
from score_sde.importing.walk import walk
from score_sde.networks.unet import UNet

LAYERS = {"norm_0": "norm1", "conv_0": "conv1", "norm_1": "norm2", "conv_1": "conv2"}
NEW_ATTENTION, OLD_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0"), ("query", "key", "value", "proj_attn")


def unet2d(net: UNet, height: int, names: Collection[str], flip_sin_to_cos: bool = True) -> list[Entry]:
    """The table for UNet2DModel.

    Args:
      names: the names in the file, which tell the version of diffusers.
      flip_sin_to_cos: the field of the config: whether the cosines stand before the sines.
    """
    return _UNet2D(net, names, flip_sin_to_cos).table(height)


class _UNet2D:
    def __init__(self, net: UNet, names: Collection[str], flip_sin_to_cos: bool) -> None:
        # Its Fourier features always have the sines first.
        self.net, self.flip = net, flip_sin_to_cos and net.noise_embedding != "fourier"
        old = any(".attentions." in name and ".query." in name for name in names)
        self.attention_names = OLD_ATTENTION if old else NEW_ATTENTION

    def table(self, height: int) -> list[Entry]:
        table = self._embedding() + linear("input", "conv_in")
        for kind, name in walk(self.net, height):
            table += getattr(self, kind)(name)
        return table

    def _embedding(self) -> list[Entry]:
        net, table = self.net, []
        if net.noise_embedding == "fourier":
            table.append(Entry("embedding/fourier/frequencies", ("time_proj.weight",)))
        if net.num_classes:
            change = functools.partial(with_null_row, transpose=False)
            table.append(Entry("embedding/label", ("class_embedding.weight",), change))
        first = after(kernel, flipped if self.flip else same)
        table.append(Entry("embedding/dense_0/kernel", ("time_embedding.linear_1.weight",), first))
        table.append(Entry("embedding/dense_0/bias", ("time_embedding.linear_1.bias",)))
        return table + linear("embedding/dense_1", "time_embedding.linear_2")

    def _place(self, name: str) -> tuple[str, int]:
        """(the name of the level, the number of the module in it)."""
        part, *rest = name.split("_")
        if part == "middle":
            return "mid_block", int(name == "middle_block_1")
        level, index = int(rest[0]), int(rest[2]) if len(rest) > 2 else 0
        if part == "decoder":
            return f"up_blocks.{len(self.net.channel_multipliers) - 1 - level}", index
        return f"down_blocks.{level}", index

    def block(self, name: str) -> list[Entry]:
        level, index = self._place(name)
        return self._block(name, f"{level}.resnets.{index}")

    def _block(self, name: str, theirs: str) -> list[Entry]:
        table = linear(f"{name}/embedding", f"{theirs}.time_emb_proj")
        for ours, layer in LAYERS.items():
            table += (norm if ours.startswith("norm") else linear)(f"{name}/{ours}", f"{theirs}.{layer}")
        return table + linear(f"{name}/skip", f"{theirs}.conv_shortcut", optional=True)

    def attention(self, name: str) -> list[Entry]:
        level, index = self._place(name)
        theirs = f"{level}.attentions.{index}"
        *qkv, out = (f"{theirs}.{part}" for part in self.attention_names)
        return [
            *norm(f"{name}/norm", f"{theirs}.group_norm"),
            Entry(f"{name}/qkv/kernel", tuple(f"{part}.weight" for part in qkv), after(kernel, joined)),
            Entry(f"{name}/qkv/bias", tuple(f"{part}.bias" for part in qkv), joined),
            *linear(f"{name}/out", out),
        ]

    def down(self, name: str) -> list[Entry]:
        return self._resampling(name, "resnet_down", "downsamplers.0")

    def up(self, name: str) -> list[Entry]:
        return self._resampling(name, "resnet_up", "upsamplers.0")

    def _resampling(self, name: str, skip_block: str, sampler: str) -> list[Entry]:
        level, _ = self._place(name)
        if self.net.resample_by == "block":
            return self._block(name, f"{level}.{skip_block if self.net.skip_projection else sampler}")
        return linear(f"{name}/conv", f"{level}.{sampler}.conv") if self.net.resample_by == "convolution" else []

    def input(self, name: str) -> list[Entry]:
        level, _ = self._place(name)
        return linear(name, f"{level}.skip_conv")

    def output(self, name: str) -> list[Entry]:
        level, _ = self._place("decoder_0_output" if name == "output" else name)
        if level == f"up_blocks.{len(self.net.channel_multipliers) - 1}":
            return norm(f"{name}_norm", "conv_norm_out") + linear(name, "conv_out")
        return norm(f"{name}_norm", f"{level}.skip_norm") + linear(name, f"{level}.skip_conv")


_BLOCKS = {  # type of a block of the encoder -> (has attention, resamples by)
    "DownBlock2D": (False, "convolution"),
    "AttnDownBlock2D": (True, "convolution"),
    "ResnetDownsampleBlock2D": (False, "block"),
    "SkipDownBlock2D": (False, "skip"),
    "AttnSkipDownBlock2D": (True, "skip"),
}


def unet2d_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `UNet` for a config.json of UNet2DModel.

    Raises: ValueError for a config that asks for something that `UNet` does not have.
    """
    types = list(config["down_block_types"])
    unknown = [name for name in types if name not in _BLOCKS]
    ups = [name.replace("Down", "Up").replace("Upsample", "Upsample") for name in reversed(types)]
    _require(not unknown, f"down_block_types among {list(_BLOCKS)}", unknown)
    _require(
        list(config["up_block_types"]) == ups,
        f"up_block_types={ups}, the mirror of the encoder's",
        config["up_block_types"],
    )
    kinds = {_BLOCKS[name][1] for name in types}
    _require(len(kinds) == 1, "one kind of resampling in all blocks", types)
    kind, fourier = kinds.pop(), config.get("time_embedding_type", "positional") == "fourier"
    # Below 128 channels, the group norms of these blocks follow three different rules, one of them by accident.
    _require(kind != "skip" or min(config["block_out_channels"]) >= 128, "128 channels or more in blocks with a skip",
             config["block_out_channels"])  # fmt: skip
    if kind == "convolution" and config.get("downsample_type", "conv") == "resnet":
        kind = "block"
    widths = list(config["block_out_channels"])
    _require(all(width % widths[0] == 0 for width in widths), "block_out_channels that the first divides", widths)
    _check_rest(config)
    height = config["sample_size"] if isinstance(config["sample_size"], int) else config["sample_size"][0]
    skip, head = kind == "skip", config.get("attention_head_dim", 8)
    classes = config.get("num_class_embeds") or 0
    return {
        "channels": widths[0],
        "channel_multipliers": tuple(width // widths[0] for width in widths),
        "blocks_per_level": config["layers_per_block"],
        "attention_resolutions": tuple(height // 2**i for i, name in enumerate(types) if _BLOCKS[name][0]),
        "decoder_attention": "level" if skip else "block",
        "head_channels": head,
        "resample_by": "convolution" if kind == "convolution" else "block",
        "resample_taps": (1, 3, 3, 1) if skip else (1, 1),
        "downsample_padding": "both" if config.get("downsample_padding", 1) else "end",
        "progressive_input": "skip" if skip else "none",
        "progressive_output": "skip" if skip else "none",
        "skip_rescale": skip,
        "skip_projection": skip,
        "scale_shift": config.get("resnet_time_scale_shift", "default") == "scale_shift",
        "norm_groups": None if skip else config.get("norm_num_groups", 32),
        "norm_epsilon": config.get("norm_eps", 1e-5),
        "noise_embedding": "fourier" if fourier else "sinusoidal" if config.get("freq_shift", 0) else "sinusoidal_open",
        "dropout": config.get("dropout", 0.0),
        "num_classes": classes,
        "label_at": "output",
        "out_channels": config["out_channels"],
    }


def _check_rest(config: Mapping[str, Any]) -> None:
    """Raises ValueError for a field with a value that `UNet` cannot express."""
    allowed = {
        "act_fn": ("silu", "swish"),
        "class_embed_type": (None,),
        "add_attention": (True,),
        "center_input_sample": (False,),
        "time_embedding_dim": (None, 4 * config["block_out_channels"][0]),
        "attn_norm_num_groups": (None, config.get("norm_num_groups", 32)),
        "freq_shift": (0, 1),
        "mid_block_type": ("UNetMidBlock2D",),
    }
    for name, values in allowed.items():
        value = config.get(name, values[0])
        _require(value in values, f"{name} among {list(values)}", value)


def _require(condition: bool, needed: str, came: Any) -> None:
    if not condition:
        raise ValueError(f"This UNet2DModel needs {needed}, got {came}; such a network is not part of this library.")
