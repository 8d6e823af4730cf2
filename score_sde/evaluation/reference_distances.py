"""The distance between two references, such as a test set and a training set, or two halves of a set."""

from score_sde.evaluation.counts import singular_warning
from score_sde.evaluation.reference_checks import check_alike
from score_sde.metrics import KID, FrechetDistance, Inputs, Reference, Result, frechet_standard_error


def reference_distances(one: Reference, other: Reference) -> tuple[dict[str, Result], list[str]]:
    """The Fréchet distance of `one` from `other`, with warnings about unknown facts.

    The spatial distance is included where both have it, and the kernel distance where both hold
    their features. The error is over sets such as `one`, for a fixed `other`, where the features of
    `one` are available.

    Raises: ValueError where features, weights, resolutions, channels or crops differ.
    """
    warnings = check_alike(one, other.description, f"the features of {other.name}", f"{other.name} is of")
    warnings += check_alike(other, one.description, f"the features of {one.name}", f"{one.name} is of")
    if one.digest == other.digest:
        warnings.append(f"{one.name} and {other.name} are of the same images.")
    pool, rows = other.statistics["pool"], {} if one.features is None else {"pool": one.features}
    inputs = Inputs(rows, other, one.description["features"])
    counts = [r.num_examples for r in (one, other) if r.num_examples is not None]
    warnings += singular_warning(min(counts), len(pool.mean)) if counts else []
    distance: Result = {"value": one.statistics["pool"].frechet_distance(pool)}
    if one.features is not None:
        distance["standard_error"] = frechet_standard_error(one.features, pool)
    results: dict[str, Result] = {inputs.named(FrechetDistance().results): distance}
    if "spatial" in one.statistics and "spatial" in other.statistics:
        results[inputs.named(FrechetDistance.spatial().results)] = {
            "value": one.statistics["spatial"].frechet_distance(other.statistics["spatial"])
        }
    if one.features is not None and other.features is not None:
        results |= KID().compute(inputs)
    return results, warnings
