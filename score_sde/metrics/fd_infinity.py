"""The Fréchet distance of infinitely many samples, extrapolated."""

from score_sde.metrics.base import Inputs, Metric, Needs, Result
from score_sde.metrics.extrapolation import LEAST, SAFE, extrapolate, fewest_samples
from score_sde.metrics.frechet import CUSTOMARY
from score_sde.metrics.reference import Reference


class FDInfinity(Metric):
    """FD∞ of the line FD(n) = FD∞ + slope/n, fitted to 15 numbers of samples n, and at least 0.

    Error: the standard error of the fit, for a fixed reference.
    Source: Chong and Forsyth, arXiv 1911.07023, Sec. 4.
    """

    name = "fd_infinity"
    results = ("fid_infinity", "fd_infinity")
    title = "Fréchet distance at infinitely many samples"
    needs = Needs(statistics=("pool",))
    least_samples = LEAST
    better = "lower"
    error = "standard_error"

    def compute(self, inputs: Inputs) -> dict[str, Result]:
        fit = extrapolate(inputs.pool, inputs.reference.statistics_of("pool", self.name), points=15)
        value = max(0.0, fit.value)
        cut = f"; cut at 0, where the line has {fit.value:.3g}" if fit.value < 0 else ""
        result = {
            "value": value,
            "standard_error": fit.standard_error,
            "bias": float(fit.distances[-1]) - value,
            "smallest": int(fit.counts[0]),
            "largest": int(fit.counts[-1]),
            "note": f"FD(n) = FD∞ + slope/n; the standard error is of the fit, reference fixed{cut}",
        }
        return {inputs.named(self.results): result}

    def check(self, num_samples: int, reference: Reference | None = None) -> None:
        """The checks of `Metric.check`. Also raises ValueError for fewer samples than the line needs with this reference."""
        super().check(num_samples, reference)
        if reference is None:
            return
        pool = reference.statistics_of("pool", self.name)
        fewest = fewest_samples(pool, num_samples)
        if num_samples < fewest:
            raise ValueError(
                f"fd_infinity needs at least {fewest:,} samples with {reference.name}, {SAFE} for each of the features that "
                f"its {len(pool.mean):,} amount to, got {num_samples:,}: with fewer the distance is no line in 1/n, and an "
                "extrapolation is wrong by any amount. Raise --num_samples, or drop fd_infinity."
            )

    def warnings(self, inputs: Inputs) -> list[str]:
        """A warning for fewer samples than in the published extrapolations."""
        count = len(inputs.pool)
        if count >= CUSTOMARY:
            return []
        text = f"{inputs.named(self.results)} is extrapolated from up to {count:,} samples, and published numbers from 5,000 to"
        return [f"{text} {CUSTOMARY:,}."]
