"""The results of several seeds, combined into one result."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from score_sde.metrics import Result


def over_seeds(
    results: Sequence[Mapping[str, Result]], seeds: Sequence[int], lower_is_better: Collection[str] = ()
) -> dict[str, Result]:
    """The results of one seed unchanged. For k seeds, the mean, the standard deviation and each value.

    Counts and digests that are equal for all seeds are kept.

    Args:
      lower_is_better: the names of numbers for which the result also has min_of_k, the least of the
        k values.
    """
    if len(results) == 1:
        return {name: dict(result) for name, result in results[0].items()}
    combined: dict[str, Result] = {}
    for name in results[0]:
        values = np.array([result[name]["value"] for result in results])
        fixed = {field: v for field, v in results[0][name].items() if isinstance(v, int | str) and field != "note"}
        combined[name] = {
            **{field: v for field, v in fixed.items() if all(result[name].get(field) == v for result in results)},
            "value": float(values.mean()),
            "sd": float(values.std(ddof=1)),
            "standard_error": float(values.std(ddof=1) / math.sqrt(len(values))),
            "values": dict(zip(map(str, seeds), values.tolist(), strict=True)),
            "note": f"mean over {len(values)} seeds; the sd is of one seed's value",
        }
        if name in lower_is_better:
            combined[name][f"min_of_{len(values)}"] = float(values.min())
        left_out = [field for field in ("interval", "bias") if field in results[0][name]]
        if left_out:
            combined[name]["note"] += f"; the {' and the '.join(left_out)} of a seed stand in a row of that seed alone"
    return combined
