"""Loss by noise level and bits/dim of held-out data."""

import hashlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

import score_sde
from score_sde import parallel, plots
from score_sde.config import plain
from score_sde.data import EvalBatches
from score_sde.data.prefetch import prefetch
from score_sde.experiment import Experiment
from score_sde.generation.parts import Arrays, NpzParts
from score_sde.likelihood import BitsPerDim, ExampleBits, example_bits, summarize
from score_sde.objectives.loss_by_noise_level import LossByNoiseLevel
from score_sde.runs.streams import compute_parts, describe, prepare
from score_sde.trained import Trained
from score_sde.training.logs.progress import Progress
from score_sde.training.reporter import Reporter
from score_sde.training.state import Params


def _batch_size(experiment: Experiment, size: int, max_examples: int | None) -> int:
    """`size`, or the number of wanted examples if that is smaller, rounded to the devices."""
    return parallel.round_up(size if max_examples is None else min(size, max_examples), experiment.mesh)


def held_out_batches(
    experiment: Experiment, max_examples: int | None = None, quiet: bool = True
) -> Iterator[dict[str, Any]]:
    """Every held-out example once (or the first `max_examples`), in batches on the devices of the mesh.

    The batches are padded: "is_real" is False on padding. Examples are encoded, as the model sees them.
    """
    size = _batch_size(experiment, experiment.settings.training.eval_batch_size, max_examples)
    batches = experiment.eval_batches(size, max_examples, encoded=True)
    is_quiet = quiet or jax.process_index() != 0
    with Progress(len(batches), batch_size=size, quiet=is_quiet, name="noise levels") as progress:
        for number, batch in enumerate(batches, start=1):
            yield parallel.shard_batch(batch, experiment.mesh)
            progress.update(number)


def loss_by_noise_level(
    experiment: Experiment, params: Params, max_examples: int | None = None, quiet: bool = True
) -> LossByNoiseLevel:
    """‖ε̂ − ε‖²/d on every held-out example (or the first `max_examples`), at noise levels uniform in log-SNR."""
    batches = held_out_batches(experiment, max_examples, quiet)
    return experiment.noise_level_loss(experiment.run_key("evaluate"), params, batches)


def held_out_bits_per_dim(
    experiment: Experiment,
    params: Params,
    max_examples: int | None = None,
    quiet: bool = False,
    folder: pathlib.Path | None = None,
) -> BitsPerDim:
    """bits/dim of the held-out examples (or the first `max_examples`), each once, with the interval of the mean.

    Args:
      folder: where the values of each batch are saved, so that an interrupted run continues. A
        subfolder is named after everything that determines the values. None saves nothing.
    """
    experiment.log_prob  # noqa: B018  a codec is refused before any work
    size = _batch_size(experiment, experiment.settings.likelihood.batch_size, max_examples)
    batches = experiment.eval_batches(size, max_examples)
    parts = _bits_of_batches(experiment, params, batches)
    if folder is None:
        number, results = len(batches), []
        with Progress(number, batch_size=size, quiet=quiet or jax.process_index() != 0, name="likelihood") as progress:
            for index, part in parts(list(range(number))):
                results.append(part)
                progress.update(index + 1, {"bits/dim": part.values.mean()})
        return summarize(results)
    facts = {"batch_size": size, "version": score_sde.__version__, **describe_data(experiment, batches)}
    manifest = describe(experiment, params, "likelihood", **facts)
    stored = NpzParts(folder / manifest["digest"][:16], list(range(0, len(batches.source), size)))
    prepare(stored, manifest)

    def compute(remaining: list[int]) -> Iterator[tuple[int, Arrays, dict[str, float]]]:
        for number, part in parts(remaining):
            yield number, part._asdict(), {"bits/dim": part.values.mean()}

    compute_parts(stored, compute, part_size=size, name="likelihood", quiet=quiet)
    return summarize([ExampleBits(**stored.read(first, ExampleBits._fields)) for first in stored.firsts])


def describe_data(experiment: Experiment, batches: EvalBatches) -> dict[str, Any]:
    """The facts that identify a set of held-out examples: its config, size, units and first examples."""
    first = batches.gather(np.arange(min(8, len(batches.source))))
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(first[name]).tobytes() for name in sorted(first)))
    data, shape = plain(experiment.config)["data"], list(batches.spec.shape)
    config = {"source": data["eval"], "crop": data["augment"].get("crop"), "shape": shape}
    return {
        "data": config,
        "examples": len(batches.source),
        "bin_width": experiment.spec.bin_width,
        "first_examples": digest.hexdigest(),
    }


def _bits_of_batches(
    experiment: Experiment, params: Params, batches: EvalBatches
) -> Callable[[list[int]], Iterator[tuple[int, ExampleBits]]]:
    """From the numbers of batches, yields (number, bits/dim of its examples). Data are read ahead."""
    params = experiment.place(params)
    key, num_repeats = experiment.run_key("likelihood"), experiment.settings.likelihood.num_repeats

    def parts(numbers: list[int]) -> Iterator[tuple[int, ExampleBits]]:
        ahead = prefetch(lambda i: (numbers[i], batches[numbers[i]]), 0, len(numbers))
        for number, host_batch in ahead:
            batch = parallel.shard_batch(host_batch, experiment.mesh)
            bits = example_bits(
                key,
                experiment.log_prob,
                experiment.denoiser.bind(params, batch["condition"], weight=batch.get("weight")),
                batch["x"],
                bin_width=experiment.spec.bin_width,
                num_repeats=num_repeats,
                index=batch["index"],
                mask=batch["is_real"],
            )
            yield number, bits

    return parts


def likelihood(trained: Trained, max_examples: int | None = None, reporter: Reporter | None = None) -> BitsPerDim:
    """bits/dim of held-out data (or of the first `max_examples`).

    The values of each batch are saved in the folder likelihood/ of the run. If the call is
    interrupted, the same call continues.
    """
    quiet, folder = (reporter or Reporter()).quiet, trained.folder / "likelihood"
    return held_out_bits_per_dim(trained.experiment, trained.params, max_examples, quiet, folder)


def bits_as_json(bits: BitsPerDim) -> dict[str, Any]:
    """The fields as numbers, without the list per example."""
    return {name: value for name, value in bits._asdict().items() if name != "per_example"}


def noise_levels(
    trained: Trained, max_examples: int | None = None, reporter: Reporter | None = None
) -> LossByNoiseLevel:
    """‖ε̂ − ε‖²/d by noise level on held-out data (or on the first `max_examples`)."""
    return loss_by_noise_level(trained.experiment, trained.params, max_examples, (reporter or Reporter()).quiet)


def draw_noise_levels(curves: dict[str, LossByNoiseLevel], path: pathlib.Path) -> None:
    """Plots the error of ε̂ against σ/α. Each curve has its name."""
    series = {name: (np.exp(-0.5 * c.log_snr), c.mean, c.standard_error) for name, c in curves.items()}
    plots.loss_by_noise_level(series, path, level_name="noise level σ/α", unit="‖ε̂ − ε‖² per dimension")
