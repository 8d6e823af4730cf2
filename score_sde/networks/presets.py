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
        "jit", fields, (256, 256, 3), 1000, parameters, 16**2 * width, gmac, False, "arXiv 2511.13720, and its code"
    )


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
)
