"""The names of DDPM, DDPM++ and NCSN++ in the releases of score_sde: the Flax tree, and PyTorch's state_dict.

Both number their modules in the order of the call. The state_dict has one list of all modules. The
Flax tree counts each class of modules by itself. Names are without the prefix "module." that
DataParallel adds.

Source: arXiv 2011.13456; yang-song/score_sde and yang-song/score_sde_pytorch.
"""

from collections import Counter
from collections.abc import Collection
from typing import Any

from score_sde.importing.mapping import Entry, joined, linear, norm
from score_sde.importing.walk import walk
from score_sde.networks.unet import UNet

FOURIER = "embedding/fourier/frequencies"
UNUSED_TORCH = ("sigmas",)  # the table of noise levels is no parameter of the network


def score_sde_flax(net: UNet, height: int, names: Collection[str]) -> list[Entry]:
    """The table for the parameters "A_0/b/kernel" of the 2021 Flax tree.

    Args:
      names: the names in the tree. A block has a map for its shortcut only where the shape changes.
    """
    return _Flax(names).table(net, height)


def score_sde_torch(net: UNet, height: int, names: Collection[str]) -> list[Entry]:
    """The table for PyTorch's "all_modules.0.weight", of the classes NCSNpp and DDPM.

    Args:
      names: the names in the state_dict, which tell how a module is called inside its block.
    """
    return _Torch(names).table(net, height)


def squeezed(weight: Any) -> Any:
    """A kernel [1, 1, in, out] as [in, out]; any other as it is."""
    return weight.reshape(weight.shape[2:]) if weight.ndim == 4 and weight.shape[:2] == (1, 1) else weight


class _Flax:
    def __init__(self, names: Collection[str]) -> None:
        self.names, self.count = frozenset(names), Counter[str]()

    def table(self, net: UNet, height: int) -> list[Entry]:
        fourier = net.noise_embedding == "fourier"
        table = [Entry(FOURIER, ("GaussianFourierProjection_0/W",))] if fourier else []
        for ours in ("embedding/dense_0", "embedding/dense_1") if net.noise_embedding != "none" else ():
            table += self.linear(ours, self.next("Dense"))
        table += self.linear("input", self.next("Conv"))
        for kind, name in walk(net, height):
            table += getattr(self, kind)(net, name)
        return table

    def next(self, kind: str) -> str:
        self.count[kind] += 1
        return f"{kind}_{self.count[kind] - 1}"

    def linear(self, ours: str, theirs: str, weight: str = "kernel", bias: str = "bias") -> list[Entry]:
        return [
            Entry(f"{ours}/kernel", (f"{theirs}/{weight}",), squeezed),
            Entry(f"{ours}/bias", (f"{theirs}/{bias}",)),
        ]

    def norm(self, ours: str, theirs: str) -> list[Entry]:
        return [Entry(f"{ours}/{end}", (f"{theirs}/{end}",)) for end in ("scale", "bias")]

    def block(self, net: UNet, name: str) -> list[Entry]:
        theirs = self.next("ResnetBlockBigGANpp" if net.resample_by == "block" else "ResnetBlockDDPMpp")
        table = []
        for i in (0, 1):
            table += self.norm(f"{name}/norm_{i}", f"{theirs}/GroupNorm_{i}")
            table += self.linear(f"{name}/conv_{i}", f"{theirs}/Conv_{i}")
        if net.noise_embedding != "none":
            table += self.linear(f"{name}/embedding", f"{theirs}/Dense_0")
        if f"{theirs}/Conv_2/kernel" in self.names:
            table += self.linear(f"{name}/skip", f"{theirs}/Conv_2")
        if f"{theirs}/NIN_0/W" in self.names:
            table += self.linear(f"{name}/skip", f"{theirs}/NIN_0", "W", "b")
        return table

    def attention(self, net: UNet, name: str) -> list[Entry]:
        theirs = self.next("AttnBlockpp")
        table = self.norm(f"{name}/norm", f"{theirs}/GroupNorm_0")
        for end, their_end in (("kernel", "W"), ("bias", "b")):
            parts = tuple(f"{theirs}/NIN_{i}/{their_end}" for i in range(3))
            table.append(Entry(f"{name}/qkv/{end}", parts, joined))
        return table + self.linear(f"{name}/out", f"{theirs}/NIN_3", "W", "b")

    def down(self, net: UNet, name: str) -> list[Entry]:
        return self._resampling(net, name, "Downsample")

    def up(self, net: UNet, name: str) -> list[Entry]:
        return self._resampling(net, name, "Upsample")

    def _resampling(self, net: UNet, name: str, kind: str) -> list[Entry]:
        if net.resample_by == "block":
            return self.block(net, name)
        theirs = self.next(kind)  # a module without parameters is counted too
        return self._convolution(f"{name}/conv", theirs) if net.resample_by == "convolution" else []

    def _convolution(self, ours: str, theirs: str) -> list[Entry]:
        if f"{theirs}/Conv2d_0/weight" in self.names:
            return self.linear(ours, f"{theirs}/Conv2d_0", "weight")
        return self.linear(ours, f"{theirs}/Conv_0")

    def input(self, net: UNet, name: str) -> list[Entry]:
        theirs = self.next("Downsample")
        if net.progressive_input == "residual":
            return self._convolution(name, theirs)
        return self.linear(name, f"{self.next('Combine')}/Conv_0")

    def output(self, net: UNet, name: str) -> list[Entry]:
        first = name in ("output", f"decoder_{len(net.channel_multipliers) - 1}_output")
        if net.progressive_output == "skip" and not first:
            self.next("Upsample")
        if net.progressive_output == "residual" and name != "output" and not first:
            return self._convolution(name, self.next("Upsample"))
        return self.norm(f"{name}_norm", self.next("GroupNorm")) + self.linear(name, self.next("Conv"))


class _Torch:
    def __init__(self, names: Collection[str]) -> None:
        self.names, self.count = frozenset(names), 0

    def table(self, net: UNet, height: int) -> list[Entry]:
        table = [Entry(FOURIER, (f"{self.next()}.W",))] if net.noise_embedding == "fourier" else []
        embedding = ("embedding/dense_0", "embedding/dense_1") if net.noise_embedding != "none" else ()
        for name in (*embedding, "input"):
            table += linear(name, self.next())
        for kind, name in walk(net, height):
            table += getattr(self, kind)(net, name)
        return table

    def next(self) -> str:
        self.count += 1
        return f"all_modules.{self.count - 1}"

    def linear(self, ours: str, theirs: str) -> list[Entry]:
        if f"{theirs}.W" in self.names:  # a map over channels, kept as [in, out]
            return [Entry(f"{ours}/kernel", (f"{theirs}.W",)), Entry(f"{ours}/bias", (f"{theirs}.b",))]
        if f"{theirs}.weight" not in self.names and f"{theirs}.0.weight" in self.names:
            theirs = f"{theirs}.0"
        return linear(ours, theirs)

    def block(self, net: UNet, name: str) -> list[Entry]:
        theirs = self.next()
        table = []
        for i in (0, 1):
            table += norm(f"{name}/norm_{i}", f"{theirs}.GroupNorm_{i}")
            table += linear(f"{name}/conv_{i}", f"{theirs}.Conv_{i}")
        if net.noise_embedding != "none":
            table += linear(f"{name}/embedding", f"{theirs}.Dense_0")
        for shortcut in ("Conv_2", "NIN_0"):  # of NCSN++, of DDPM
            if any(key.startswith(f"{theirs}.{shortcut}.") for key in self.names):
                table += self.linear(f"{name}/skip", f"{theirs}.{shortcut}")
        return table

    def attention(self, net: UNet, name: str) -> list[Entry]:
        theirs = self.next()
        table = norm(f"{name}/norm", f"{theirs}.GroupNorm_0")
        for end, their_end in (("kernel", "W"), ("bias", "b")):
            parts = tuple(f"{theirs}.NIN_{i}.{their_end}" for i in range(3))
            table.append(Entry(f"{name}/qkv/{end}", parts, joined))
        return table + self.linear(f"{name}/out", f"{theirs}.NIN_3")

    def down(self, net: UNet, name: str) -> list[Entry]:
        return self._resampling(net, name)

    def up(self, net: UNet, name: str) -> list[Entry]:
        return self._resampling(net, name)

    def _resampling(self, net: UNet, name: str) -> list[Entry]:
        if net.resample_by == "block":
            return self.block(net, name)
        theirs = self.next()  # a module without parameters is numbered too
        return self._convolution(f"{name}/conv", theirs) if net.resample_by == "convolution" else []

    def _convolution(self, ours: str, theirs: str) -> list[Entry]:
        return linear(ours, f"{theirs}.{'Conv_0' if f'{theirs}.Conv_0.weight' in self.names else 'Conv2d_0'}")

    def input(self, net: UNet, name: str) -> list[Entry]:
        return self._convolution(name, self.next())

    def output(self, net: UNet, name: str) -> list[Entry]:
        first = name in ("output", f"decoder_{len(net.channel_multipliers) - 1}_output")
        if net.progressive_output == "residual" and not first:
            return self._convolution(name, self.next())
        return norm(f"{name}_norm", self.next()) + linear(name, self.next())
