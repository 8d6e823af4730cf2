"""The mean m and the covariance C of a set of features, and the Fréchet distance between two such pairs."""

import dataclasses
import functools

import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Float64


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """n, m = Σ fᵢ / n and C = Σ (fᵢ − m)(fᵢ − m)ᵀ / (n − 1), in float64 for features of any type.

    `merge` joins the statistics of batches, so the features need not be kept.

    Attributes:
      thin: A [n, d] with AᵀA = C, if n < d and the examples are available, else None. With it,
        distances cost O(n d²) instead of O(d³).
    Raises: ValueError for a mean or a covariance that is not finite, or of different d.
    """

    count: int
    mean: Float[np.ndarray, " _"]
    cov: Float[np.ndarray, "_ _"]
    thin: Float[np.ndarray, "n _"] | None = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks and casts what was given."""
        for name in ("mean", "cov"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        if self.cov.shape != 2 * self.mean.shape:
            raise ValueError(
                "FeatureStatistics needs a mean [d] and a covariance [d, d], got shapes "
                f"{self.mean.shape} and {self.cov.shape}; take both from one file."
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.cov).all()):
            raise ValueError(
                "FeatureStatistics needs a finite mean and covariance, got NaN or infinity; compute them again from finite "
                "features."
            )

    @classmethod
    def of(cls, features: Float[np.ndarray | Array, "n *shape"]) -> "FeatureStatistics":
        """The statistics of n >= 2 examples, each flattened to d numbers.

        Raises: ValueError for fewer examples, or for values that are not finite.
        """
        flat = np.asarray(features).astype(np.float64).reshape(len(features), -1)
        if len(flat) < 2 or not np.isfinite(flat).all():
            bad = int((~np.isfinite(flat)).any(axis=1).sum())
            raise ValueError(
                f"FeatureStatistics needs at least 2 examples of finite features, got {len(flat)}, {bad} of them not "
                "finite; find out which samples diverged."
            )
        mean = flat.mean(axis=0)
        thin = (flat - mean) / np.sqrt(len(flat) - 1) if len(flat) < flat.shape[1] else None
        return cls(len(flat), mean, (flat - mean).T @ (flat - mean) / (len(flat) - 1), thin)

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """The statistics of both sets together.

        Source: Chan, Golub and LeVeque, Updating formulae … for computing sample variances, 1979.
        """
        count = self.count + other.count
        shift = other.mean - self.mean
        between = np.outer(shift, shift) * (self.count * other.count / count)
        scatter = (self.count - 1) * self.cov + (other.count - 1) * other.cov + between
        return type(self)(count, self.mean + shift * (other.count / count), scatter / (count - 1))

    @functools.cached_property
    def root(self) -> Float64[np.ndarray, "d r"]:
        """R with R Rᵀ = C, computed once, because a reference is compared with many sets. See the function of this name."""
        return root(self.cov)

    @functools.cached_property
    def eigenvalues(self) -> Float64[np.ndarray, " _"]:
        """The eigenvalues of C, computed once. Those that are 0 for lack of examples are left out."""
        if self.thin is not None:
            return np.linalg.svd(self.thin, compute_uv=False) ** 2
        return np.linalg.eigvalsh(self.cov)

    def within(self, rows: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "n k"]:
        """W with W Wᵀ = X C Xᵀ for the rows X, from `thin` where it is known, else from `root`."""
        return rows @ (self.root if self.thin is None else self.thin.T)

    def frechet_distance(self, other: "FeatureStatistics") -> float:
        """The Fréchet distance to another set; see the function of this name.

        Raises: ValueError for another number of features, or where a covariance has no root.
        """
        if len(self.mean) != len(other.mean):
            raise ValueError(
                f"frechet_distance needs statistics of one number of features, got {len(self.mean)} and {len(other.mean)}; "
                "use the same extractor for both."
            )
        overlap = np.linalg.svd(self._overlap_with(other), compute_uv=False).sum()
        traces = np.trace(self.cov) + np.trace(other.cov)
        return float(((self.mean - other.mean) ** 2).sum() + traces - 2 * overlap)

    def _overlap_with(self, other: "FeatureStatistics") -> Float64[np.ndarray, "_ _"]:
        """A matrix whose singular values sum to tr (C C')^½: A B for any A, B with C = AᵀA and C' = B Bᵀ."""
        return other.within(self.root.T if self.thin is None else self.thin)


def frechet_distance(
    mean1: Float[np.ndarray, " _"],
    cov1: Float[np.ndarray, "_ _"],
    mean2: Float[np.ndarray, " _"],
    cov2: Float[np.ndarray, "_ _"],
) -> float:
    """|m1 − m2|² + tr C1 + tr C2 − 2 tr (C1 C2)^½, the squared Wasserstein-2 distance between two Gaussians.

    With C = R Rᵀ, where R comes from the eigendecomposition of C, the last trace is the sum of the
    singular values of R1ᵀ R2. So no square root of an unsymmetric matrix is needed, and no square
    root of the rounding errors of singular covariances: √(1e-16) would add 1e-8 for each empty
    direction.

    Error: rounding, about 1e-14 of the traces. So two equal sets give about 0, of either sign. For
      a covariance stored in float32, the rounding of float32.
    Raises: ValueError if a covariance is not symmetric, or has a negative eigenvalue beyond
      rounding. ValueError for different d, or values that are not finite.
    Source: Dowson and Landau (1982); Heusel et al., arXiv 1706.08500, Eq. 6.
    """
    return FeatureStatistics(0, mean1, cov1).frechet_distance(FeatureStatistics(0, mean2, cov2))


def root(cov: Float[np.ndarray, "d d"]) -> Float64[np.ndarray, "d r"]:
    """R with R Rᵀ = C in float64, without the eigenvalues that are 0 within rounding.

    The rounding of float64 arithmetic is d ε₆₄ max |λ|. If every entry of C is a float32 number, as
    in files that store C so, the rounding is ε₃₂/2 ‖C‖_F. The entries then have an error E with
    |Eᵢⱼ| <= ε₃₂/2 |Cᵢⱼ|, which moves no eigenvalue by more than ‖E‖ <= ‖E‖_F (Weyl). The values
    decide this, not the dtype, so a cast changes nothing.

    R is Cholesky's factor where C is far from singular. Elsewhere R is Cholesky's factor with pivots,
    [d, rank], at about a tenth of the price of an eigendecomposition. The eigendecomposition remains
    for C stored in float32, whose rounding hides the rank, and for C that is no covariance.

    Raises: ValueError if C has an asymmetry, or a negative eigenvalue, of more than 100 times the
      rounding.
    """
    cov = np.asarray(cov, np.float64)
    in_float32 = (
        np.finfo(np.float32).eps / 2 * np.linalg.norm(cov) if np.array_equal(cov, cov.astype(np.float32)) else 0.0
    )
    factor = _cholesky(cov, in_float32)
    if factor is None and not in_float32:
        factor = _pivoted_cholesky(cov)
    if factor is not None:
        return factor
    eigenvalues, vectors = np.linalg.eigh(cov)
    rounding = len(cov) * np.finfo(np.float64).eps * abs(eigenvalues).max() + in_float32
    asymmetry = abs(cov - cov.T).max()
    if eigenvalues.min() < -100 * rounding or asymmetry > 100 * rounding:
        raise ValueError(
            "frechet_distance needs symmetric covariances without negative eigenvalues, got smallest eigenvalue "
            f"{eigenvalues.min():.3g} and largest asymmetry {asymmetry:.3g} where rounding is {rounding:.3g}; compute them in "
            "float64."
        )
    return vectors * np.sqrt(np.where(eigenvalues > rounding, eigenvalues, 0.0))


def _cholesky(cov: Float64[np.ndarray, "d d"], error: float) -> Float64[np.ndarray, "d d"] | None:
    """L with L Lᵀ = C, or None.

    It is None where C is not symmetric, or where its least eigenvalue is not well above rounding
    and `error`.
    """
    norm = abs(cov).sum(axis=0).max()
    rounding = len(cov) * np.finfo(np.float64).eps * norm + error
    if abs(cov - cov.T).max() > rounding:
        return None
    try:
        factor = np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        return None
    reciprocal_condition, _ = scipy.linalg.lapack.dpocon(factor, norm, uplo="L")
    return factor if reciprocal_condition * norm > 1000 * rounding else None


def _pivoted_cholesky(cov: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d r"] | None:
    """R of C's numerical rank with R Rᵀ = C, or None where it is not C to rounding, as of C with negative eigenvalues.

    Source: Higham, Accuracy and Stability of Numerical Algorithms (2002), Sec. 10.3; LAPACK's dpstrf.
    """
    rounding = len(cov) * np.finfo(np.float64).eps * np.linalg.norm(cov)
    lower, order, rank, _ = scipy.linalg.lapack.dpstrf(cov, lower=1, tol=rounding)
    factor = np.zeros((len(cov), rank))
    factor[order - 1] = np.tril(lower)[:, :rank]
    return factor if rank and np.linalg.norm(factor @ factor.T - cov) <= 100 * rounding else None
