"""The table of published network sizes, with parameters and multiply-adds as counted here and as published."""

from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp

from score_sde.networks import NETWORKS
from score_sde.networks.presets import PRESETS, Preset
from score_sde.tools.network_cost import Cost, cost_of


class Row(NamedTuple):
    """A preset, what it costs here, and the multiply-adds that are comparable with the published number."""

    name: str
    preset: Preset
    cost: Cost

    @property
    def million_parameters(self) -> float:
        """Parameters in millions, with the fixed table where the published number contains it."""
        return (self.cost.parameters + self.preset.table) / 1e6

    @property
    def comparable_gmac(self) -> float:
        """Billions of multiply-adds, with and without what the published number contains and leaves out."""
        left_out = 0 if self.preset.counts_attention else self.cost.of_attention
        return (self.cost.multiply_adds - left_out) / 1e9 + self.preset.saved_gmac


def rows(prefix: str = "") -> Iterator[Row]:
    """The rows whose names start with `prefix`, from shapes alone.

    Raises: ValueError where no name does.
    """
    names = [name for name in PRESETS if name.startswith(prefix)]
    if not names:
        raise ValueError(f"--presets needs all or the beginning of one of {', '.join(PRESETS)}, got {prefix!r}.")
    return (Row(name, PRESETS[name], _cost(name, PRESETS[name])) for name in names)


def _cost(name: str, preset: Preset) -> Cost:
    condition = {"label": ((), jnp.int32)} if preset.num_classes else {}
    return cost_of(NETWORKS[name](num_classes=preset.num_classes), preset.shape, condition)


def as_table(prefix: str = "") -> str:
    """The rows as a table."""
    head = ("network", "input", "parameters/M", "published", "multiply-adds/G", "of attention", "published", "source")
    lines = [_line(*head)]
    for row in rows(prefix):
        preset, cost = row.preset, row.cost
        lines.append(
            _line(
                row.name,
                "×".join(map(str, preset.shape)),
                f"{cost.parameters / 1e6:,.2f}",
                "–" if preset.million_parameters is None else f"{preset.million_parameters:,.2f}",
                f"{cost.multiply_adds / 1e9:,.2f}",
                f"{cost.of_attention / 1e9:,.2f}",
                "–" if preset.gmac is None else f"{preset.gmac:,.2f}",
                preset.source,
            )
        )
    lines += [
        "",
        "One evaluation of one example, with the published number of classes. The published parameters of DiT, SiT and",
        "JiT contain a fixed table of positions. The published multiply-adds of JiT leave out the products of attention.",
        "The published multiply-adds of EDM's NCSN++ contain filters, and a convolution before the filter that halves.",
    ]
    return "\n".join(lines)


def _line(name: str, shape: str, *rest: str) -> str:
    *numbers, source = rest
    return f"{name:19s} {shape:>12s} " + " ".join(f"{number:>15s}" for number in numbers) + f"  {source}"
