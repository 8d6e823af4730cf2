"""Where FD(n) = FD∞ + slope/n holds: the error of its FD∞ on exact Gaussian features, as a fraction of the bias at n.

The reference is N(0, Λ), known exactly. Samples are N(s √λ, (1 + s)² Λ), at the distance 2 s² tr Λ.
Several numbers of features d and several spectra Λ are measured. A column is a number of samples n,
divided by the effective number of features. The fit has 15 numbers of samples from n/2 to n, as in
the metric. The noise of the first order is subtracted, and the rest is averaged. So the result is
the error of the fit itself.
"""

import numpy as np

from score_sde.metrics import FeatureStatistics
from score_sde.metrics.extrapolation import effective_features, fit_line

SPECTRA = {
    "all equal": lambda i: np.ones(len(i)),
    "1/i": lambda i: 1 / i,
    "1/i^1.5": lambda i: i**-1.5,
    "1/i^2": lambda i: i**-2.0,
    "exp(-i/16)": lambda i: np.exp(-i / 16),
}
MULTIPLES = (0.5, 1, 2, 3, 4, 6, 10)


def run(rounds: int = 7, features: tuple[int, ...] = (64, 256), shifts: tuple[float, ...] = (0.0, 0.4)) -> None:
    """Prints a line for each spectrum, number of features and distance."""
    head = "".join(f"{f'n = {multiple:g}':>9s}" for multiple in MULTIPLES)
    print(f"{'spectrum':12s}{'d':>5s}{'effective':>11s}{'true / tr':>11s}{head}   (error of FD∞ over the bias at n)")
    for name, spectrum in SPECTRA.items():
        for number in features:
            variances = spectrum(np.arange(1.0, number + 1))
            reference = FeatureStatistics(0, np.zeros(number), np.diag(variances))
            effective = effective_features(variances)
            for shift in shifts:
                errors = [error(reference, shift, round(m * effective), rounds) for m in MULTIPLES]
                cells = "".join(f"{error:9.2f}" for error in errors)
                print(f"{name:12s}{number:5d}{effective:11.1f}{2 * shift**2:11.2f}{cells}", flush=True)


def error(reference: FeatureStatistics, shift: float, count: int, rounds: int) -> float:
    """(fitted FD∞ − known FD∞) / (FD(n) − FD∞), of `count` samples."""
    rng, scale = np.random.default_rng(0), np.sqrt(np.diag(reference.cov))
    counts = np.linspace(count // 2, count, 15).astype(int)
    drawn = [[distance(rng, reference, scale, shift, n) for n in counts] for _ in range(rounds)]
    distances, true = np.mean(drawn, axis=0), 2 * shift**2 * (scale**2).sum()
    return (fit_line(counts, distances)[0] - true) / (distances[-1] - true)


def distance(
    rng: np.random.Generator, reference: FeatureStatistics, scale: np.ndarray, shift: float, count: int
) -> float:
    """FD of `count` samples, minus the first-order noise in their mean and covariance. The mean of this noise is 0.

    The derivative of the overlap in C is I/2(1 + s), for samples of covariance (1 + s)² C. The rest
    is of second order, as the bias is, so a few rounds are enough.
    """
    samples = FeatureStatistics.of(scale * (shift + (1 + shift) * rng.normal(size=(count, len(scale)))))
    trace = (1 + shift) ** 2 * (scale**2).sum()
    of_mean = (samples.mean**2).sum() - shift**2 * (scale**2).sum() - trace / count
    of_trace = (np.trace(samples.cov) - trace) * (1 - 1 / (1 + shift))
    return samples.frechet_distance(reference) - of_mean - of_trace
