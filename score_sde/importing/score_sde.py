"""The names of DDPM, DDPM++ and NCSN++ in the releases of score_sde: the Flax tree, and PyTorch's state_dict.

Both number their modules in the order of the call. The state_dict has one list of all modules. The
Flax tree counts each class of modules by itself. Names are without the prefix "module." that
DataParallel adds.

Source: arXiv 2011.13456; yang-song/score_sde and yang-song/score_sde_pytorch.
"""

from collections import Counter
from typing import Any

from score_sde.importing.mapping import Entry, joined, linear, norm, same
from score_sde.importing.walk import walk
from score_sde.networks.blocks import is_plain
from score_sde.networks.unet import UNet

FOURIER = "embedding/fourier/frequencies"
UNUSED_TORCH = ("sigmas",)  # the table of noise levels is no parameter of the network


def score_sde_flax(net: UNet, height: int) -> list[Entry]:
    """The table for the parameters "A_0/b/kernel" of the 2021 Flax tree, of the class NCSNpp."""
    return _Flax(net).table(height)


def score_sde_torch(net: UNet, height: int) -> list[Entry]:
    """The table for PyTorch's "all_modules.0.weight", of the classes NCSNpp and DDPM."""
    return _Torch(net).table(height)


def squeezed(weight: Any) -> Any:
    """A kernel [1, 1, in, out] as [in, out]; any other as it is."""
    return weight.reshape(weight.shape[2:]) if weight.ndim == 4 and weight.shape[:2] == (1, 1) else weight


class _Flax:
    def __init__(self, net: UNet) -> None:
        self.net, self.count = net, Counter[str]()

    def table(self, height: int) -> list[Entry]:
        net, table = self.net, []
        if net.noise_conditional and net.noise_embedding == "fourier":
            table.append(Entry(FOURIER, ("GaussianFourierProjection_0/W",)))
        for ours in ("embedding/dense_0", "embedding/dense_1") if net.noise_conditional else ():
            table += self.linear(ours, self.next("Dense"))
        table += self.linear("input", self.next("Conv"))
        for kind, name in walk(net, height):
            table += getattr(self, kind)(name)
        return table

    def next(self, kind: str) -> str:
        self.count[kind] += 1
        return f"{kind}_{self.count[kind] - 1}"

    def linear(self, ours: str, theirs: str, ends: tuple[str, str] = ("kernel", "bias"), **fields: Any) -> list[Entry]:
        weight, bias = (f"{theirs}/{end}" for end in ends)
        return [
            Entry(f"{ours}/kernel", (weight,), squeezed, **fields),
            Entry(f"{ours}/bias", (bias,), same, **fields),
        ]

    def norm(self, ours: str, theirs: str) -> list[Entry]:
        return [Entry(f"{ours}/{end}", (f"{theirs}/{end}",)) for end in ("scale", "bias")]

    def block(self, name: str) -> list[Entry]:
        biggan = self.net.resample_by == "block"
        theirs, table = self.next("ResnetBlockBigGANpp" if biggan else "ResnetBlockDDPMpp"), []
        for i in (0, 1):
            table += self.norm(f"{name}/norm_{i}", f"{theirs}/GroupNorm_{i}")
            table += self.linear(f"{name}/conv_{i}", f"{theirs}/Conv_{i}")
        if self.net.noise_conditional:
            table += self.linear(f"{name}/embedding", f"{theirs}/Dense_0")
        if biggan:
            return table + self.linear(f"{name}/skip", f"{theirs}/Conv_2", optional=True)
        return table + self.linear(f"{name}/skip", f"{theirs}/NIN_0", ("W", "b"), optional=True)

    def attention(self, name: str) -> list[Entry]:
        theirs = self.next("AttnBlockpp")
        table = self.norm(f"{name}/norm", f"{theirs}/GroupNorm_0")
        for end, their_end in (("kernel", "W"), ("bias", "b")):
            parts = tuple(f"{theirs}/NIN_{i}/{their_end}" for i in range(3))
            table.append(Entry(f"{name}/qkv/{end}", parts, joined))
        return table + self.linear(f"{name}/out", f"{theirs}/NIN_3", ("W", "b"))

    def down(self, name: str) -> list[Entry]:
        return self._resampling(name, "Downsample")

    def up(self, name: str) -> list[Entry]:
        return self._resampling(name, "Upsample")

    def _resampling(self, name: str, kind: str) -> list[Entry]:
        if self.net.resample_by == "block":
            return self.block(name)
        theirs = self.next(kind)  # a module without parameters is counted too
        return self._convolution(f"{name}/conv", theirs) if self.net.resample_by == "convolution" else []

    def _convolution(self, ours: str, theirs: str) -> list[Entry]:
        if is_plain(self.net.resample_taps):
            return self.linear(ours, f"{theirs}/Conv_0")
        return self.linear(ours, f"{theirs}/Conv2d_0", ("weight", "bias"))

    def input(self, name: str) -> list[Entry]:
        theirs = self.next("Downsample")
        if self.net.progressive_input == "residual":
            return self._convolution(name, theirs)
        return self.linear(name, f"{self.next('Combine')}/Conv_0")

    def output(self, name: str) -> list[Entry]:
        kind, first = self.net.progressive_output, name == f"decoder_{len(self.net.channel_multipliers) - 1}_output"
        theirs = self.next("Upsample") if kind != "none" and name != "output" and not first else ""
        if kind == "residual" and theirs:
            return self._convolution(name, theirs)
        return self.norm(f"{name}_norm", self.next("GroupNorm")) + self.linear(name, self.next("Conv"))


class _Torch:
    def __init__(self, net: UNet) -> None:
        self.net, self.count = net, 0

    def table(self, height: int) -> list[Entry]:
        net, table = self.net, []
        if net.noise_embedding == "fourier":
            theirs = self.next()
            table += [Entry(FOURIER, (f"{theirs}.W",))] if net.noise_conditional else []
        embedding = ("embedding/dense_0", "embedding/dense_1") if net.noise_conditional else ()
        for name in (*embedding, "input"):
            table += linear(name, self.next())
        for kind, name in walk(net, height):
            table += getattr(self, kind)(name)
        return table

    def next(self) -> str:
        self.count += 1
        return f"all_modules.{self.count - 1}"

    def over_channels(self, ours: str, theirs: str, *, optional: bool = False) -> list[Entry]:
        """A map over channels, which is kept as [in, out]."""
        return [
            Entry(f"{ours}/{end}", (f"{theirs}.{e}",), same, optional) for end, e in (("kernel", "W"), ("bias", "b"))
        ]

    def block(self, name: str) -> list[Entry]:
        theirs, table = self.next(), []
        for i in (0, 1):
            table += norm(f"{name}/norm_{i}", f"{theirs}.GroupNorm_{i}")
            table += linear(f"{name}/conv_{i}", f"{theirs}.Conv_{i}")
        if self.net.noise_conditional:
            table += linear(f"{name}/embedding", f"{theirs}.Dense_0")
        if self.net.resample_by == "block":
            return table + linear(f"{name}/skip", f"{theirs}.Conv_2", optional=True)
        return table + self.over_channels(f"{name}/skip", f"{theirs}.NIN_0", optional=True)

    def attention(self, name: str) -> list[Entry]:
        theirs = self.next()
        table = norm(f"{name}/norm", f"{theirs}.GroupNorm_0")
        for end, their_end in (("kernel", "W"), ("bias", "b")):
            parts = tuple(f"{theirs}.NIN_{i}.{their_end}" for i in range(3))
            table.append(Entry(f"{name}/qkv/{end}", parts, joined))
        return table + self.over_channels(f"{name}/out", f"{theirs}.NIN_3")

    def down(self, name: str) -> list[Entry]:
        return self._resampling(name)

    def up(self, name: str) -> list[Entry]:
        return self._resampling(name)

    def _resampling(self, name: str) -> list[Entry]:
        if self.net.resample_by == "block":
            return self.block(name)
        theirs = self.next()  # a module without parameters is numbered too
        return self._convolution(f"{name}/conv", theirs) if self.net.resample_by == "convolution" else []

    def _convolution(self, ours: str, theirs: str) -> list[Entry]:
        return linear(ours, f"{theirs}.{'Conv_0' if is_plain(self.net.resample_taps) else 'Conv2d_0'}")

    def input(self, name: str) -> list[Entry]:
        if self.net.progressive_input == "residual":
            return self._convolution(name, self.next())
        return linear(name, f"{self.next()}.Conv_0")

    def output(self, name: str) -> list[Entry]:
        first = name in ("output", f"decoder_{len(self.net.channel_multipliers) - 1}_output")
        if self.net.progressive_output == "residual" and not first:
            return self._convolution(name, self.next())
        return norm(f"{name}_norm", self.next()) + linear(name, self.next())
