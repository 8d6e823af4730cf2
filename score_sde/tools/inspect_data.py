"""Inspects a data set, and suggests an SDE and noise levels for training.

Symbols: x has the model's units ([−1, 1] for images), mean m and covariance C with eigenvalues λᵢ.
d is the number of values in one example.
"""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Float64, Int

from score_sde.config import build, plain
from score_sde.data import DataSpec
from score_sde.data.prefetch import prefetch
from score_sde.evaluation.duplicates import compared, near_duplicates, summary, thumbnails
from score_sde.evaluation.features import image_hashes, is_image, split_batches, to_levels
from score_sde.experiment import Experiment
from score_sde.sdes import SDE, SDES
from score_sde.training.logs.progress import Progress
from score_sde.training.logs.stages import stage

LISTED = 100  # the most unusable examples that are listed
SAMPLED = 2000  # the number of examples whose pairs are compared: two million pairs
HISTOGRAM = np.linspace(-1.0, 1.0, 65)
# These values were chosen on CIFAR-10, FFHQ and ImageNet at 32 and 64 pixels, with their σ_data.
# Source: arXiv 2206.00364, Table 1.
EDM = {"sigma_data": 0.5, "P_mean": -1.2, "P_std": 1.2, "sigma_max": 80.0, "resolution": 64}
DEFAULTS = ("vp", "sub_vp", "ve", "edm", "cosine", "flow", "ddpm", "iddpm")


@dataclasses.dataclass(frozen=True)
class Stream:
    """The result of one pass over the data.

    Attributes:
      moments: the moments of each channel (the last axis).
      values: a histogram.
      classes: class -> count.
      duplicates: groups of equal examples. Images are compared in 8 bits.
      sample: some examples as rows, drawn at random.
      thumbnails: for images, some examples without repetitions.
      index: the index of each thumbnail.
      bad: the examples that cannot be used, with the reason.
    """

    num_examples: int
    mean: Float64[np.ndarray, " c"]
    sd: Float64[np.ndarray, " c"]
    sigma_data: float
    root_mean_square: float
    values: Int[np.ndarray, " bins"]
    classes: dict[int, int]
    duplicates: list[list[int]]
    sample: Float[np.ndarray, "n d"]
    thumbnails: Float32[np.ndarray, "m t"]
    index: Int[np.ndarray, " m"]
    bad: dict[int, str]

    @functools.cached_property
    def distances(self) -> Float64[np.ndarray, " pairs"]:
        """‖xᵢ − xⱼ‖ of all pairs of the sample."""
        return pair_distances(self.sample)


class _Pass:
    """Sums over the batches of one pass, in float64."""

    def __init__(self, total: int, spec: DataSpec):
        self.chosen = set(np.random.default_rng(0).permutation(total)[:SAMPLED].tolist())
        self.compared, channels = set(compared(total).tolist()) if is_image(spec.shape) else set(), spec.shape[-1]
        self.spec = spec
        self.used = 0
        self.count, self.first, self.second = 0, np.zeros(channels), np.zeros(channels)
        self.values, self.classes = np.zeros(len(HISTOGRAM) - 1, np.int64), Counter[int]()
        self.seen: dict[bytes, list[int]] = {}
        self.sample: list[np.ndarray] = []
        self.thumbnails: list[np.ndarray] = []
        self.index: list[int] = []

    def add(self, batch: Mapping[str, np.ndarray]) -> None:
        """Adds the rows that are not padding."""
        if not batch["is_real"].any():
            return
        x, index = batch["x"][batch["is_real"]], batch["index"][batch["is_real"]]
        rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
        self.used += len(x)
        self.count += len(rows)
        self.first += rows.sum(axis=0)
        self.second += (rows**2).sum(axis=0)
        self.values += np.histogram(np.clip(rows, -1, 1), HISTOGRAM)[0]
        if "label" in batch["condition"]:
            self.classes.update(batch["condition"]["label"][batch["is_real"]].tolist())
        levels, new = to_levels(x, self.spec, int(index[0])), []
        for row, (i, content) in enumerate(zip(index.tolist(), image_hashes(levels), strict=True)):
            same = self.seen.setdefault(content.tobytes(), [])
            if not same and i in self.compared:
                new.append(row)
            same.append(i)
        if new:
            self.thumbnails.append(thumbnails(levels[new]))
            self.index += index[new].tolist()
        self.sample += [row.ravel() for i, row in zip(index.tolist(), x, strict=True) if i in self.chosen]


def stream(
    experiment: Experiment,
    split: str = "train",
    max_examples: int | None = None,
    batch_size: int = 256,
    quiet: bool = False,
) -> Stream:
    """Reads every example of a split once (or the first `max_examples`). Examples that cannot be used are skipped."""
    batches = dataclasses.replace(split_batches(experiment, split, batch_size), on_error="skip")
    total = len(batches.source) if max_examples is None else min(max_examples, len(batches.source))
    sums, number = _Pass(total, batches.spec), math.ceil(total / batch_size)
    with Progress(number, batch_size=batch_size, quiet=quiet, name="inspect") as progress:
        for step, batch in enumerate(prefetch(batches.__getitem__, 0, number), start=1):
            keep = batch["is_real"] & (batch["index"] < total)
            sums.add({**batch, "is_real": keep})
            progress.update(step)
    mean = sums.first / sums.count
    overall, square = mean.mean(), (sums.second / sums.count).mean()
    return Stream(
        num_examples=sums.used,
        mean=mean,
        sd=np.sqrt(np.maximum(sums.second / sums.count - mean**2, 0)),
        sigma_data=float(np.sqrt(max(square - overall**2, 0))),
        root_mean_square=float(np.sqrt(square)),
        values=sums.values,
        classes=dict(sorted(sums.classes.items())),
        duplicates=[indices for indices in sums.seen.values() if len(indices) > 1],
        sample=np.stack(sums.sample),
        thumbnails=np.concatenate(sums.thumbnails or [np.zeros((0, 0), np.float32)]),
        index=np.array(sums.index, np.int64),
        bad={i: why for i, why in batches.bad.items() if i < total},
    )


def pair_distances(sample: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, " pairs"]:
    """‖xᵢ − xⱼ‖ of all pairs i < j."""
    x = sample.astype(np.float64) - sample.mean(axis=0, dtype=np.float64)
    squares = (x**2).sum(axis=1)
    squared = squares[:, None] + squares[None] - 2 * x @ x.T
    return np.sqrt(np.maximum(squared[np.triu_indices(len(x), 1)], 0))


def prior_mismatch(sde: SDE, sample: Float[np.ndarray, "n d"]) -> float:
    """KL(N(α m, α² C + σ² I) ‖ N(0, σ² I)) at t_max in nats: ½ Σ (eᵢ − log(1 + eᵢ)) + α²‖m‖²/2σ², with eᵢ = α² λᵢ/σ².

    Error: the KL of the data themselves is larger, by how far x at t_max is from a Gaussian. m and
      C are estimated from the sample.
    """
    return _mismatch(sde, *_spectrum(sample))


def _spectrum(sample: Float[np.ndarray, "n d"]) -> tuple[Float64[np.ndarray, " k"], float]:
    """(λᵢ, ‖m‖²)."""
    x = sample.astype(np.float64)
    mean = x.mean(axis=0)
    return np.linalg.svd(x - mean, compute_uv=False) ** 2 / (len(x) - 1), float((mean**2).sum())


def _mismatch(sde: SDE, eigenvalues: Float64[np.ndarray, " k"], mean_square: float) -> float:
    time = jnp.asarray(float(sde.t_max), jnp.float32)
    ratio = (float(sde.alpha(time)) / float(sde.prior_std())) ** 2
    excess = ratio * eigenvalues
    return float(0.5 * (excess - np.log1p(excess)).sum() + 0.5 * ratio * mean_square)


def prior_mismatches(experiment: Experiment, sample: Float[np.ndarray, "n d"]) -> dict[str, float]:
    """`prior_mismatch` of the config's SDE, and of each SDE with its default fields."""
    spectrum = _spectrum(sample)
    sdes = {f"this config ({experiment.config.sde.name})": experiment.sde}
    sdes |= {name: build("sde", SDES, {"name": name}) for name in DEFAULTS}
    return {name: _mismatch(sde, *spectrum) for name, sde in sdes.items()}


def suggest(experiment: Experiment, sigma_data: float, largest_distance: float) -> dict[str, dict[str, Any]]:
    """Field of the config -> {"value", "rule"}, for the fields that this config has.

    The rules carry over what worked in their sources. Only the scaling by σ_data is exact: data and
    noise levels that are both c times larger are the same problem.
    """
    shift = math.log(sigma_data / EDM["sigma_data"])
    mean_rule = "EDM's −1.2 + log(σ_data/0.5): exact rescaling of a value found on 32 and 64 pixels (2206.00364)"
    shape, p_mean = experiment.spec.shape, EDM["P_mean"] + shift
    if is_image(shape) and min(shape[:2]) > EDM["resolution"]:
        p_mean += math.log(min(shape[:2]) / EDM["resolution"])
        mean_rule += ", + log(resolution/64), since neighbouring pixels average noise away (2301.11093, Sec. 3.1)"
    of_data = {"value": round(sigma_data, 4), "rule": "standard deviation of all values"}
    sigma_max = EDM["sigma_max"] * sigma_data / EDM["sigma_data"]
    rules = {
        "parameterization.sigma_data": of_data,
        "objective.weighting.sigma_data": of_data,
        "objective.time_sampler.mean": {"value": round(p_mean, 3), "rule": mean_rule},
        "objective.time_sampler.std": {"value": EDM["P_std"], "rule": "EDM's P_std, which rescaling leaves"},
    }
    if experiment.config.sde.name == "ve":
        rule = "largest distance between two examples, of the sampled pairs (2006.09011, Technique 1)"
        rules["sde.sigma_max"] = {"value": float(f"{largest_distance:.3g}"), "rule": rule}
    elif experiment.config.sde.name == "edm":
        rules["sde.sigma_max"] = {"value": float(f"{sigma_max:.3g}"), "rule": "EDM's 80 · σ_data/0.5 (2206.00364)"}
    return {field: rule for field, rule in rules.items() if _is_float_field(plain(experiment.config), field)}


def _is_float_field(config: Any, field: str) -> bool:
    section, log_normal = config, True
    for name in field.split("."):
        if name == "time_sampler":
            log_normal = section.get(name, {}).get("name") == "log_normal"
        if not isinstance(section, dict) or name not in section:
            return False
        section = section[name]
    return log_normal


def as_overrides(suggestion: Mapping[str, Mapping[str, Any]], prefix: str = "--config.") -> list[str]:
    """The flags of a command line."""
    return [f"{prefix}{field}={rule['value']}" for field, rule in suggestion.items()]


def inspect(
    experiment: Experiment, split: str = "train", max_examples: int | None = None, quiet: bool = False
) -> tuple[dict[str, Any], Stream]:
    """(all results as JSON values, the pass over the data)."""
    seen = stream(experiment, split, max_examples, quiet=quiet)
    with stage("comparing x at t_max with the priors"):
        mismatch = prior_mismatches(experiment, seen.sample)
    suggestion = suggest(experiment, seen.sigma_data, float(seen.distances.max()))
    dimension = experiment.spec.dimension
    repeated = sum(len(indices) - 1 for indices in seen.duplicates)
    result = {
        "split": split,
        "data": split_batches(experiment, split, 1).source.summary(),
        "examples": seen.num_examples,
        "unusable": {"number": len(seen.bad), "examples": dict(list(seen.bad.items())[:LISTED])},
        "shape": list(experiment.spec.shape),
        "sigma_data": seen.sigma_data,
        "root_mean_square": seen.root_mean_square,
        "channel_mean": seen.mean.tolist(),
        "channel_sd": seen.sd.tolist(),
        "largest_distance": float(seen.distances.max()),
        "median_distance": float(np.median(seen.distances)),
        "pairs": len(seen.distances),
        "prior_mismatch_nats": mismatch,
        "prior_mismatch_nats_per_dimension": {name: value / dimension for name, value in mismatch.items()},
        "classes": seen.classes,
        "class_names": {number: experiment.spec.class_name(number) for number in seen.classes},
        "duplicates": {"repeated": repeated, "groups": seen.duplicates[:100]},
        "near_duplicates": near_duplicates(seen.thumbnails, seen.index, "thumbnails") if len(seen.index) > 1 else None,
        "suggestion": suggestion,
        "overrides": as_overrides(suggestion, prefix=""),
    }
    return result, seen


def report(result: Mapping[str, Any], of_run: bool = False) -> str:
    """The result as text. Its last line is the suggested flags.

    Args:
      of_run: whether the config belongs to a run that is already trained.
    """
    lines = [f"data.{result['split']}: {result['data']}", *_unusable(result["unusable"])]
    lines += [f"{result['examples']} examples of {result['split']}, {tuple(result['shape'])}, in the model's units"]
    channels = _pairs(zip(result["channel_mean"], result["channel_sd"], strict=True))
    lines += [f"σ_data {result['sigma_data']:.4f} (root mean square {result['root_mean_square']:.4f})"]
    lines += [f"mean ± sd of each channel: {channels}"] if len(result["channel_mean"]) <= 16 else []
    lines += [f"largest distance {result['largest_distance']:.4g}, median {result['median_distance']:.4g}"]
    lines[-1] += f", of {result['pairs']:,} pairs (half of it where data are in [0, 1])"
    lines += [_classes(result["classes"], result["class_names"])]
    lines += [f"{result['duplicates']['repeated']} examples repeat another one exactly"]
    kinds = ("near_duplicates", "near_duplicates_by_features")
    lines += [summary(result[name]) for name in kinds if result.get(name)]
    lines += ["KL of x at t_max, as a Gaussian, from the prior:"]
    lines += [f"  {name:24s} {value:10.4g} nats" for name, value in result["prior_mismatch_nats"].items()]
    lines += ["Suggested:"]
    lines += [f"  {field} {rule['value']}: {rule['rule']}" for field, rule in result["suggestion"].items()]
    where = "for a new run, in another --workdir, " if of_run else ""
    lines += [f"{where}to be pasted behind score-sde train:".capitalize()]
    return "\n".join([*lines, " ".join(as_overrides(result["suggestion"]))])


def _unusable(unusable: Mapping[str, Any]) -> list[str]:
    """The examples that cannot be used, each with the reason."""
    if not unusable["number"]:
        return []
    lines = [
        f"examples that cannot be used: {unusable['number']}; training ends at the first unless data.on_error=skip"
    ]
    lines += [f"  {index}: {why}" for index, why in unusable["examples"].items()]
    more = unusable["number"] - len(unusable["examples"])
    return lines + [f"  and {more} more"] * (more > 0)


def _classes(counts: Mapping[int, int], names: Mapping[int, str]) -> str:
    if not counts:
        return "no labels"
    fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    few, many = (f"{counts[number]} ({names[number]!r})" for number in (fewest, most))
    return f"{len(counts)} classes with {few} to {many} examples"


def _pairs(channels: Iterable[tuple[float, float]]) -> str:
    return ", ".join(f"{mean:.4f} ± {sd:.4f}" for mean, sd in channels)
