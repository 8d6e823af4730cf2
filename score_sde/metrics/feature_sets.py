"""Sets of feature vectors: rows of finite numbers, with the same number of features in every set."""

import numpy as np
from jaxtyping import Array, Float

Features = Float[np.ndarray | Array, "n d"]
OtherFeatures = Float[np.ndarray | Array, "m _"]  # of the same d, which `on_host` checks with a message that says so


def on_host(metric: str, *sets: Float[np.ndarray | Array, "_ _"]) -> list[Float[np.ndarray, "_ _"]]:
    """The sets as numpy arrays of their own dtype.

    The arithmetic of a jax.Array would stay in float32.

    Raises: ValueError for values that are not finite, or sets with different numbers of features.
    """
    arrays = [np.asarray(x) for x in sets]
    if len({x.shape[1] for x in arrays}) > 1:
        raise ValueError(
            f"{metric} needs sets with one number of features, got shapes {[x.shape for x in arrays]}; use the same "
            "extractor for both."
        )
    bad = [int((~np.isfinite(x)).any(axis=1).sum()) for x in arrays]
    if any(bad):
        raise ValueError(
            f"{metric} needs finite values, got {bad} rows with NaN or infinity in sets of {[len(x) for x in arrays]} "
            "examples; find out which samples diverged."
        )
    return arrays
