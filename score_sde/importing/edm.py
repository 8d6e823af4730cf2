"""The names of EDM's networks: SongUNet (DDPM++ and NCSN++) and DhariwalUNet (ADM).

Modules are named by their resolution, and attention belongs to the block before it. The names here
are inside the preconditioning, with its prefix "model.".

Source: arXiv 2206.00364; NVlabs/edm, training/networks.py.
"""

import functools
import math
from typing import Any

from score_sde.importing.mapping import Entry, after, flipped, interleaved, kernel, linear, norm, same, with_null_row
from score_sde.importing.walk import walk
from score_sde.networks.unet import UNet

UNUSED = (r".*\.resample_filter", r"u")  # fixed filters, and the table of iDDPM's noise levels


def edm(net: UNet, height: int) -> list[Entry]:
    """The table for a SongUNet, or for a DhariwalUNet where the label enters at the embedding's output."""
    return _EDM(net, height).table()


def song_label(weight: Any, bias: Any, num_classes: int) -> Any:
    """The rows that a one-hot label, or zeros for none, become: EDM maps √classes times the label, with a bias."""
    return with_null_row(math.sqrt(num_classes) * weight) + bias[None]


class _EDM:
    def __init__(self, net: UNet, height: int) -> None:
        self.net, self.height = net, height
        self.dhariwal = net.label_at == "output"

    def table(self) -> list[Entry]:
        table = self._embedding() + linear("input", f"model.enc.{self.height}x{self.height}_conv")
        for kind, name in walk(self.net, self.height):
            kind = "block" if kind in ("down", "up") else kind
            table += getattr(self, kind)(name)
        return table

    def _embedding(self) -> list[Entry]:
        net, table = self.net, []
        # The Dhariwal network has the cosines before the sines, and ours has the sines first.
        rows, columns = (functools.partial(flipped, axis=axis) if self.dhariwal else same for axis in (0, 1))
        if net.noise_embedding == "fourier":
            table.append(Entry("embedding/fourier/frequencies", ("model.map_noise.freqs",)))
        if net.num_classes and self.dhariwal:
            table.append(Entry("embedding/label", ("model.map_label.weight",), with_null_row))
        elif net.num_classes:
            sources = ("model.map_label.weight", "model.map_label.bias")
            table.append(Entry("embedding/label", sources, functools.partial(song_label, num_classes=net.num_classes)))
        if net.embedding_dim:
            table.append(Entry("embedding/embedding/kernel", ("model.map_augment.weight",), after(kernel, columns)))
        table.append(Entry("embedding/dense_0/kernel", ("model.map_layer0.weight",), after(kernel, rows)))
        table.append(Entry("embedding/dense_0/bias", ("model.map_layer0.bias",)))
        return table + linear("embedding/dense_1", "model.map_layer1")

    def theirs(self, name: str) -> str:
        """The name of the block that our module belongs to."""
        part, *rest = name.split("_")
        if part == "middle":
            side = self.height // 2 ** (len(self.net.channel_multipliers) - 1)
            return f"model.dec.{side}x{side}_in{int(name == 'middle_block_1')}"
        level, what, *index = rest
        shift = {"down": 1, "up": -1}.get(what, 0)
        side = self.height // 2 ** (int(level) + shift)
        block = what if shift else f"block{index[0] if index else self.net.blocks_per_level}"
        return f"model.{part[:3]}.{side}x{side}_{block}"

    def block(self, name: str) -> list[Entry]:
        theirs, table = self.theirs(name), []
        for i in (0, 1):
            table += norm(f"{name}/norm_{i}", f"{theirs}.norm{i}") + linear(f"{name}/conv_{i}", f"{theirs}.conv{i}")
        table += linear(f"{name}/embedding", f"{theirs}.affine")
        return table + linear(f"{name}/skip", f"{theirs}.skip", optional=True)

    def attention(self, name: str) -> list[Entry]:
        theirs = self.theirs(name)
        table = norm(f"{name}/norm", f"{theirs}.norm2") + linear(f"{name}/out", f"{theirs}.proj")
        table.append(Entry(f"{name}/qkv/kernel", (f"{theirs}.qkv.weight",), after(kernel, interleaved)))
        return [*table, Entry(f"{name}/qkv/bias", (f"{theirs}.qkv.bias",), interleaved)]

    def input(self, name: str) -> list[Entry]:
        side = self.height // 2 ** (int(name.split("_")[1]) + 1)
        return linear(name, f"model.enc.{side}x{side}_aux_{self.net.progressive_input}")

    def output(self, name: str) -> list[Entry]:
        if self.dhariwal:
            return norm("output_norm", "model.out_norm") + linear("output", "model.out_conv")
        level = 0 if name == "output" else int(name.split("_")[1])
        theirs = f"model.dec.{self.height // 2**level}x{self.height // 2**level}_aux"
        return norm(f"{name}_norm", f"{theirs}_norm") + linear(name, f"{theirs}_conv")
