"""Published sizes of networks, as one table: config name, fields, input, and the published parameters and cost.

Each name is a network of the catalogue: {"name": "dit-b/2"} in a config is DiT with these fields,
and other fields can be set beside it. `score-sde plan --presets=all` prints the table with
parameters and multiply-adds as counted here.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Preset(NamedTuple):
    """A published size of a network.

    Attributes:
      network: the config name of the network whose fields are set.
      fields: the fields.
      shape: the shape of one input in the published experiment.
      num_classes: the number of classes there, 0 for none.
      million_parameters: the published number, or None where none was published.
      table: the numbers in a fixed table of positions, which the published number contains.
      gmac: the published multiply-adds of one evaluation, in billions, or None.
      counts_attention: whether the published multiply-adds contain the two products of attention.
      saved_gmac: the billions of multiply-adds in the published number that our network saves.
      source: where the numbers stand.
    """

    network: str
    fields: Mapping[str, Any]
    shape: tuple[int, ...]
    num_classes: int = 1000
    million_parameters: float | None = None
    table: int = 0
    gmac: float | None = None
    counts_attention: bool = True
    saved_gmac: float = 0.0
    source: str = ""


def _dit(network: str, width: int, depth: int, num_heads: int, parameters: float, gmac: float, source: str) -> Preset:
    fields = {"patch_size": 2, "width": width, "depth": depth, "num_heads": num_heads}
    fields |= {"learn_sigma": True} if network == "dit" else {}
    return Preset(network, fields, (32, 32, 4), 1000, parameters, 16**2 * width, gmac, source=source)


def _uvit(width: int, depth: int, num_heads: int, parameters: float | None, gmac: float | None) -> Preset:
    fields = {"patch_size": 2, "width": width, "depth": depth, "num_heads": num_heads}
    return Preset("uvit", fields, (32, 32, 4), 1000, parameters, 0, gmac, source="arXiv 2209.12152, Table 1")


def _jit(
    width: int, depth: int, num_heads: int, bottleneck: int, start: int, parameters: float | None, gmac: float | None
) -> Preset:
    fields = {"width": width, "depth": depth, "num_heads": num_heads, "bottleneck": bottleneck, "context_start": start}
    return Preset(
        "jit",
        fields,
        (256, 256, 3),
        1000,
        parameters,
        16**2 * width,
        gmac,
        False,
        0.0,
        "arXiv 2511.13720, and its code",
    )


def _score_sde(network: str, deep: bool = False) -> Preset:
    source = "arXiv 2011.13456, App. H"
    return Preset(network, {"blocks_per_level": 8 if deep else 4, "dropout": 0.1}, (32, 32, 3), 0, source=source)


def _edm(
    network: str,
    height: int,
    multipliers: tuple[int, ...],
    dropout: float,
    parameters: float | None,
    gmac: float | None,
) -> Preset:
    """EDM's networks without augmentation labels; with them, `embedding_dim` is 9."""
    fields = {"channel_multipliers": multipliers, "dropout": dropout}
    return Preset(network, fields, (height, height, 3), 0, parameters, 0, gmac, source="arXiv 2206.00364, App. F")


def _edm2(channels: int, dropout: float, parameters: float | None, gmac: float | None) -> Preset:
    fields = {"channels": channels, "dropout": dropout}
    return Preset("edm2", fields, (64, 64, 4), 1000, parameters, 0, gmac, source="arXiv 2312.02696, Table 1 and code")


_DIT = {
    "s/2": (384, 12, 6, 32.96, 6.06),
    "b/2": (768, 12, 12, 130.51, 23.01),
    "l/2": (1024, 24, 16, 458.10, 80.70),
    "xl/2": (1152, 28, 16, 675.13, 118.62),
}
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {f"dit-{size}": _dit("dit", *numbers, "arXiv 2212.09748, Table 4, and its code") for size, numbers in _DIT.items()}
    # SiT's network is DiT's.
    | {f"sit-{size}": _dit("sit", *numbers, "arXiv 2401.08740, Table 1") for size, numbers in _DIT.items()}
    | {
        "uvit-s/2": _uvit(512, 13, 8, None, None),
        "uvit-m/2": _uvit(768, 17, 12, 130.9, 35.2),
        "uvit-l/2": _uvit(1024, 21, 16, 286.8, 76.5),
        "uvit-h/2": _uvit(1152, 29, 16, 500.8, 133.2),
        "jit-b/16": _jit(768, 12, 12, 128, 4, 131.3, 23.8),
        "jit-l/16": _jit(1024, 24, 16, 128, 8, None, None),
        "jit-h/16": _jit(1280, 32, 16, 256, 10, None, None),
        "jit-g/16": _jit(1664, 40, 16, 256, 10, None, None),
    }
    | {
        f"{network}-cifar10{'-deep' if deep else ''}": _score_sde(network, deep)
        for network in ("ddpmpp", "ncsnpp")
        for deep in (False, True)
    }
    | {
        "edm-cifar10-ddpmpp": _edm("ddpmpp", 32, (2, 2, 2), 0.13, 55.73, 21.19),
        # EDM convolves the progressive input before the filter halves it, and its filters are convolutions.
        "edm-cifar10-ncsnpp": _edm("ncsnpp", 32, (2, 2, 2), 0.13, 56.40, 21.40)._replace(saved_gmac=0.166),
        "edm-ffhq64-ddpmpp": _edm("ddpmpp", 64, (1, 2, 2, 2), 0.05, None, None),
        "edm-ffhq64-ncsnpp": _edm("ncsnpp", 64, (1, 2, 2, 2), 0.05, None, None),
        "edm-afhq64-ddpmpp": _edm("ddpmpp", 64, (1, 2, 2, 2), 0.25, None, None),
        "edm-afhq64-ncsnpp": _edm("ncsnpp", 64, (1, 2, 2, 2), 0.25, None, None),
        "edm-imagenet64": _edm("adm", 64, (1, 2, 3, 4), 0.1, 295.90, 109.66)._replace(num_classes=1000),
    }
    | {
        "edm2-xxs": _edm2(64, 0.0, None, None),
        "edm2-xs": _edm2(128, 0.0, 124.7, 45.0),
        "edm2-s": _edm2(192, 0.0, 280.2, 100.8),
        "edm2-m": _edm2(256, 0.1, 497.8, 179.0),
        "edm2-l": _edm2(320, 0.1, 777.5, 279.3),
        "edm2-xl": _edm2(384, 0.1, 1119.3, 402.0),
        "edm2-xxl": _edm2(448, 0.1, 1523.2, 546.9),
    }
)
