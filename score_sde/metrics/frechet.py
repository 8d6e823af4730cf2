"""The Fréchet distance of samples from a reference: FID with Inception features, sFID with spatial ones, else FD."""

import dataclasses

import numpy as np
from jaxtyping import Float

from score_sde.metrics.base import NORMAL, Inputs, Metric, Needs, Result
from score_sde.metrics.extrapolation import extrapolate, fewest_samples
from score_sde.metrics.frechet_error import frechet_standard_error
from score_sde.metrics.statistics import FeatureStatistics

CUSTOMARY = 50_000  # the number of samples in the papers' FID and Inception Score
RESAMPLES, LEAST_RESAMPLES = 100, 40  # the usual number, and the least for quantiles of 2.5 %


@dataclasses.dataclass(frozen=True)
class FrechetDistance(Metric):
    """|m − m'|² + tr C + tr C' − 2 tr (C C')^½, with the mean m and the covariance C of the features.

    Attributes:
      name: the name in --metrics.
      results: its name with Inception features, and with others.
      output: the output of the extractor: "pool", or "spatial" for sFID.
      cheap: a limit of n · d · min(n, d) for n samples and d features. Up to this limit a hundred
        resamples take a minute or less on two cores, and they give the interval. Beyond it the
        interval is computed as for a normal distribution.
    Error: the standard error over sets of samples, for a fixed reference. The bias from the number
      of samples comes in addition.
    Source: Heusel et al., arXiv 1706.08500, Eq. 6; sFID: Nash et al., arXiv 2103.03841, Sec. 5.
    """

    name: str = "fid"
    results: tuple[str, ...] = ("fid", "fd")
    output: str = "pool"
    cheap: float = 2e10

    title = "Fréchet distance"
    better = "lower"
    error = "standard_error"
    bootstraps = True

    @classmethod
    def spatial(cls) -> "FrechetDistance":
        """sFID: the distance of the spatial features."""
        return cls("sfid", ("sfid", "sfd"), "spatial")

    @property
    def needs(self) -> Needs:
        return Needs(outputs=(self.output,), statistics=(self.output,))

    def compute(self, inputs: Inputs) -> dict[str, Result]:
        rows, of = inputs.rows(self.output), inputs.reference.statistics_of(self.output, self.name)
        value, error = FeatureStatistics.of(rows).frechet_distance(of), frechet_standard_error(rows, of)
        resamples = inputs.resamples
        if resamples is None:
            resamples = RESAMPLES if rows.size * min(rows.shape) <= self.cheap else 0
        if resamples:
            low, high = bootstrap(rows, of, resamples)
            kind = f"interval of {resamples} bootstrap resamples"
        else:
            low, high = -NORMAL * error, NORMAL * error
            kind = f"interval of a normal distribution with it; --bootstrap={RESAMPLES} resamples instead, which takes minutes"
        result = {
            "value": value,
            "standard_error": error,
            "interval": [max(0.0, value + low), max(0.0, value + high)],  # because a distance is not negative
            "note": f"standard error over sets of samples, reference fixed, without the bias of their number; {kind}",
        }
        return {inputs.named(self.results): result}

    def warnings(self, inputs: Inputs) -> list[str]:
        """A warning for another number of samples than 50,000, with the distance at 50,000 where it can be estimated."""
        rows, name = inputs.rows(self.output), inputs.named(self.results)
        reference, count = inputs.reference.statistics_of(self.output, self.name), len(rows)
        if count == CUSTOMARY:
            return []
        text = (
            f"{name} is of {count:,} samples, and published numbers are of {CUSTOMARY:,}, of which the same model would"
        )
        fewest = fewest_samples(reference, count)
        if count < fewest:
            text += f" have less; from fewer than {fewest:,} samples it cannot be told how much, as with so few for "
            return [f"{text}{rows.shape[1]:,} features the distance is no line in 1/n."]
        fit = extrapolate(rows, reference, points=3)
        here, there = float(fit.distances[-1]), fit.at(CUSTOMARY)
        if fit.bias <= 0:
            return [
                f"{text} have {'less' if count < CUSTOMARY else 'more'}; how much, is less than the noise of {count:,}."
            ]
        change = f"about {here - there:.3g} less" if count < CUSTOMARY else f"about {there - here:.3g} more"
        return [f"{text} have {change} (rough: FD(n) = FD∞ + slope/n fitted to three n, and no distance is below 0)."]


def bootstrap(
    pool: Float[np.ndarray, "n d"], reference: FeatureStatistics, resamples: int, seed: int = 0
) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of FD* − mean FD* over resamples of the samples.

    The distances are centred, because a resample repeats examples, and its distance lies above that
    of the set. An example that was drawn w times has the weight w, and the other examples cost
    nothing. A resample of 50,000 samples with 2,048 features takes about 3 s on two cores, most of
    it in the covariance and its eigenvalues. All resamples together need 3 GB.

    Source: Efron, Bootstrap methods: another look at the jackknife (1979).
    """
    count, rng, values = len(pool), np.random.default_rng(seed), []
    rows = pool.astype(np.float64) - reference.mean
    squares, within, trace = np.einsum("nd,nd->n", rows, rows), reference.within(rows), np.trace(reference.cov)
    for _ in range(resamples):
        weights = np.bincount(rng.integers(count, size=count), minlength=count)
        drawn = np.flatnonzero(weights)
        mean = weights @ rows / count
        centred = (within[drawn] - weights @ within / count) * np.sqrt(weights[drawn])[:, None]
        gram = centred.T @ centred if len(drawn) > centred.shape[1] else centred @ centred.T
        overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(gram / (count - 1)), 0)).sum()
        spread = (weights @ squares - count * (mean**2).sum()) / (count - 1)
        values.append((mean**2).sum() + spread + trace - 2 * overlap)
    low, high = np.quantile(np.array(values) - np.mean(values), [0.025, 0.975])
    return float(low), float(high)
