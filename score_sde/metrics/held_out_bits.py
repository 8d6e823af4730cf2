"""The likelihood of held-out data."""

from score_sde.metrics.base import Inputs, Metric, Needs, Result


class HeldOutBits(Metric):
    """Bits per dimension of held-out data. For quantized data it is an upper bound.

    Error: the standard error over examples. It contains the noise of dequantization and probes, but
      not the solver's error.
    """

    name = "bits_per_dim"
    aliases = ("bpd",)
    title = "likelihood of held-out data"
    unit = "bits/dim"
    needs = Needs(outputs=(), model=True, likelihood=True)
    better = "lower"
    error = "standard_error"

    def compute(self, inputs: Inputs) -> dict[str, Result]:
        bits = inputs.model.bits_per_dim()
        more = {name: value for name, value in bits._asdict().items() if name not in ("mean", "per_example")}
        return {self.name: {"value": bits.mean, **more}}
