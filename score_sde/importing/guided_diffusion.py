"""The names of ADM's networks in the release of guided-diffusion: UNetModel and EncoderUNetModel.

The input and output blocks are numbered in the order of the call. Each is a list: a residual block,
then attention, then a change of resolution, as far as they are there.

Source: arXiv 2105.05233; openai/guided-diffusion, guided_diffusion/unet.py.
"""

import functools

from score_sde.importing.mapping import Entry, after, by_heads, flipped, kernel, linear, norm, with_null_row
from score_sde.importing.walk import walk
from score_sde.networks.encoder import Encoder
from score_sde.networks.unet import UNet

LAYERS = {"norm_0": "in_layers.0", "conv_0": "in_layers.2", "norm_1": "out_layers.0", "conv_1": "out_layers.3"}


def guided_diffusion(net: UNet, height: int) -> list[Entry]:
    """The table for UNetModel."""
    table = _embedding()
    if net.num_classes:
        table.append(Entry("embedding/label", ("label_emb.weight",), functools.partial(with_null_row, transpose=False)))
    return table + _Blocks(net).table(list(walk(net, height)))


def guided_classifier(net: Encoder, height: int) -> list[Entry]:
    """The table for EncoderUNetModel with the pooling "adaptive" or "attention"."""
    modules, last = [], len(net.channel_multipliers) - 1
    for level in range(last + 1):
        if level:
            modules.append(("down", f"level_{level}_down"))
        for i in range(net.blocks_per_level):
            modules.append(("block", f"level_{level}_block_{i}"))
            if height // 2**level in net.attention_resolutions:
                modules.append(("attention", f"level_{level}_attention_{i}"))
    modules += [("block", "end_block_0"), ("attention", "end_attention"), ("block", "end_block_1")]
    table = _embedding() + _Blocks(net).table(modules) + norm("output_norm", "out.0")
    if net.pool == "mean":
        return table + linear("output", "out.3")
    table.append(Entry("pool/positions", ("out.2.positional_embedding",), lambda tensor: tensor.T))
    return table + linear("pool/qkv", "out.2.qkv_proj") + linear("pool/out", "out.2.c_proj")


def _embedding() -> list[Entry]:
    # Theirs has the cosines before the sines, and ours has the sines first.
    first = Entry("embedding/dense_0/kernel", ("time_embed.0.weight",), after(kernel, flipped))
    return [
        first,
        Entry("embedding/dense_0/bias", ("time_embed.0.bias",)),
        *linear("embedding/dense_1", "time_embed.2"),
    ]


class _Blocks:
    """The blocks in the order of the call, with the counters of their lists."""

    def __init__(self, net: UNet | Encoder) -> None:
        self.net, self.block_number, self.place, self.part = net, 0, 0, "input_blocks"

    def table(self, modules: list[tuple[str, str]]) -> list[Entry]:
        table = linear("input", "input_blocks.0.0")
        for kind, name in modules:
            if kind == "output":
                table += norm(f"{name}_norm", "out.0") + linear(name, "out.2")
                continue
            theirs = self._next(kind, name)
            if kind == "attention":
                table += self._attention(name, theirs)
            elif kind == "block" or self.net.resample_by == "block":
                table += _block(name, theirs)
            elif self.net.resample_by == "convolution":
                table += linear(f"{name}/conv", f"{theirs}.{'op' if kind == 'down' else 'conv'}")
        return table

    def _next(self, kind: str, name: str) -> str:
        part = {"middle": "middle_block", "end": "middle_block", "decoder": "output_blocks"}.get(name.split("_")[0])
        part = part or "input_blocks"
        starts_list = kind in ("block", "down") and part != "middle_block"
        if part != self.part:
            self.part, self.block_number, self.place = part, 0 if part == "output_blocks" else self.block_number, 0
        elif starts_list:
            self.block_number, self.place = self.block_number + 1, 0
        else:
            self.place += 1
        return f"middle_block.{self.place}" if part == "middle_block" else f"{part}.{self.block_number}.{self.place}"

    def _attention(self, name: str, theirs: str) -> list[Entry]:
        table = norm(f"{name}/norm", f"{theirs}.norm") + linear(f"{name}/out", f"{theirs}.proj_out")
        split = by_heads(self.net.num_heads, self.net.head_channels)
        table.append(Entry(f"{name}/qkv/kernel", (f"{theirs}.qkv.weight",), after(kernel, split)))
        return [*table, Entry(f"{name}/qkv/bias", (f"{theirs}.qkv.bias",), split)]


def _block(name: str, theirs: str) -> list[Entry]:
    table = linear(f"{name}/embedding", f"{theirs}.emb_layers.1")
    for ours, layer in LAYERS.items():
        table += (norm if ours.startswith("norm") else linear)(f"{name}/{ours}", f"{theirs}.{layer}")
    return table + linear(f"{name}/skip", f"{theirs}.skip_connection", optional=True)
