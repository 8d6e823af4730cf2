"""The quickstart: train on the digits, sample with and without guidance, measure, and report."""

import pathlib
import shlex
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import plots
from score_sde.config import plain
from score_sde.experiment import Experiment
from score_sde.generation.generator import Generated
from score_sde.guidance import ClassifierFree
from score_sde.internal.files import write_json
from score_sde.likelihood import BitsPerDim
from score_sde.metrics import FeatureStatistics, Judgement, KernelClassifier, judge, oriented_gradients
from score_sde.objectives.loss_by_noise_level import LossByNoiseLevel
from score_sde.plots.html_report import (
    Commands,
    Number,
    Numbers,
    Picture,
    Pictures,
    Report,
    Section,
    Table,
    Text,
    environment,
)
from score_sde.runs import (
    bits_as_json,
    draw_noise_levels,
    held_out_bits_per_dim,
    loss_by_noise_level,
    pick_params,
    run_training,
)
from score_sde.solvers import ProbabilityFlow, sample
from score_sde.solvers.grids import Given
from score_sde.training.logs.logging import read_metrics
from score_sde.training.state import Params, TrainState
from score_sde.training.stopping import kept

NUM_SAMPLES = 200
PICTURED = 100
PER_CLASS = 8  # the number of images of each class with and without guidance
SCALE = 3.0  # the guidance scale that the report shows beside 1
GUIDED = f"guidance {SCALE:g}"
LIKELIHOODS = 100  # the number of held-out digits whose likelihood is computed
FRAMES = 50  # the number of frames of the animation
STRIP_LOG_SNR = (6.0, 4.0, 2.0, 0.0, -2.0, -4.0)


class Measured(NamedTuple):
    """The numbers of the report."""

    seconds: dict[str, float]
    judgements: dict[str, Judgement]
    distances: dict[str, float]
    bits: BitsPerDim
    levels: LossByNoiseLevel
    nfe: dict[str, float]


def run_quickstart(experiment: Experiment, workdir: pathlib.Path) -> pathlib.Path | None:
    """Trains, samples and measures in `workdir`. Returns the path of report.html, which shows everything.

    It returns None where the training was asked to stop. The same call then continues from there.
    It writes samples_sde.png, samples_ode.png, guidance.png, strip.png, reverse.webp, loss.png, noise_levels.png,
    report.json and report.html.
    """
    clock = _Clock()
    state = run_training(experiment, workdir)
    if int(state.step) < experiment.settings.training.num_steps:
        return None
    with kept(f"the trained model is saved in {workdir}. The same command goes on from there."):
        return _show(experiment, workdir, state, clock)


def _show(experiment: Experiment, workdir: pathlib.Path, state: TrainState, clock: "_Clock") -> pathlib.Path:
    params = pick_params(state, None)
    clock.lap("training")
    sde_images = _reverse_sde(experiment, params)
    clock.lap("sampling, reverse SDE")
    ode_images = _probability_flow(experiment, params)
    clock.lap("sampling, probability flow")
    guided_images = _guided(experiment, params)
    clock.lap("sampling with guidance")
    bits = held_out_bits_per_dim(experiment, params, LIKELIHOODS)
    clock.lap("likelihood")
    levels = loss_by_noise_level(experiment, params)
    clock.lap("loss by noise level")
    samples = {"reverse SDE": sde_images, "probability flow": ode_images, GUIDED: guided_images}
    judgements, distances = _judge(experiment, samples)
    _draw(experiment, params, workdir, samples, levels)
    clock.lap("classifier and pictures")
    nfe = {name: float(images.nfe.mean()) for name, images in samples.items()}
    measured = Measured(clock.seconds, judgements, distances, bits, levels, nfe)
    write_json(workdir / "report.json", _as_json(measured))
    return _report(experiment, workdir, measured).write(workdir / "report.html")


class _Clock:
    """The seconds of each part, compilation included."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends the part `name`."""
        now = time.perf_counter()
        self.seconds[name], self._since = now - self._since, now


def _reverse_sde(experiment: Experiment, params: Params) -> Generated:
    """(images, their states at FRAMES times on the way)."""
    num_steps = len(experiment.grid.times(experiment.sde)) - 1
    keep = tuple(np.unique(np.linspace(0, num_steps, FRAMES).round().astype(int)).tolist())
    return experiment.generator._replace(keep=keep)(experiment.run_key("sample"), params, NUM_SAMPLES)


def _probability_flow(experiment: Experiment, params: Params) -> Generated:
    """The images of the same noise by the probability flow, with the adaptive solver and its own steps for each image."""
    ends = experiment.grid.times(experiment.sde)[[0, -1]]
    generator = experiment.generator._replace(solver=ProbabilityFlow(rtol=1e-3, atol=1e-3), grid=Given(ends))
    return generator(experiment.run_key("sample"), params, NUM_SAMPLES)


def _guided(experiment: Experiment, params: Params) -> Generated:
    """The images of the same noise by the reverse SDE, guided by their classes."""
    generator = experiment.generator._replace(guidance=(ClassifierFree(SCALE),))
    return generator(experiment.run_key("sample"), params, NUM_SAMPLES)


def _judge(experiment: Experiment, samples: dict[str, Generated]) -> tuple[dict[str, Judgement], dict[str, float]]:
    """(a classifier's judgement of the samples, of held-out digits and of noise; Fréchet distances).

    The classifier is trained on real digits.
    """
    real, held_out = (
        source.gather(np.arange(len(source))) for source in (experiment.train_source, experiment.eval_source)
    )
    spec = experiment.spec
    classifier = KernelClassifier.fit(spec.scale(real["x"]), real["label"], features=oriented_gradients)
    noise = np.random.default_rng(0).uniform(-1, 1, (NUM_SAMPLES, *spec.shape)).astype(np.float32)
    labels = np.arange(NUM_SAMPLES) % (spec.num_classes or 1)
    images = {"held-out digits": (spec.scale(held_out["x"]), held_out["label"]), "noise": (noise, labels)}
    images |= {name: (s.x, s.condition["label"]) for name, s in samples.items()}
    reference = FeatureStatistics.of(spec.scale(real["x"]))
    judgements = {name: judge(classifier, x, label) for name, (x, label) in images.items()}
    distances = {name: FeatureStatistics.of(x).frechet_distance(reference) for name, (x, _) in images.items()}
    return judgements, distances


def _draw(
    experiment: Experiment,
    params: Params,
    workdir: pathlib.Path,
    samples: dict[str, Generated],
    levels: LossByNoiseLevel,
) -> None:
    """Writes the pictures."""
    columns = experiment.spec.num_classes or 10
    for name, file in (("reverse SDE", "samples_sde.png"), ("probability flow", "samples_ode.png")):
        plots.save_image(workdir / file, plots.image_grid(samples[name].x[:PICTURED], columns=columns, upscale=6))
    _draw_guidance(experiment, samples, workdir / "guidance.png")
    _draw_strip(experiment, params, workdir / "strip.png")
    if (trajectory := samples["reverse SDE"].trajectory) is not None:
        _draw_animation(experiment, trajectory, workdir / "reverse.webp")
    plots.loss_curve(read_metrics(workdir / "metrics.jsonl"), workdir / "loss.png")
    draw_noise_levels({"held-out digits": levels}, workdir / "noise_levels.png")


def _draw_guidance(experiment: Experiment, samples: dict[str, Generated], path: pathlib.Path) -> None:
    """The same noise with the guidance scales 1 and SCALE, a class a row."""
    spec, plain_images = experiment.spec, samples["reverse SDE"]
    names = [f"digit {spec.class_name(number)}" for number in range(spec.num_classes or 1)]
    panels = {"guidance scale 1": plain_images.x, f"guidance scale {SCALE:g}": samples[GUIDED].x}
    labels = np.asarray(plain_images.condition["label"])
    plots.class_rows(panels, labels, names, path, per_class=min(PER_CLASS, len(labels) // len(names)))


def _draw_strip(experiment: Experiment, params: Params, path: pathlib.Path) -> None:
    """One held-out digit at several noise levels: noised, denoised in one step, and denoised by a whole solve."""
    sde, key = experiment.sde, experiment.run_key("evaluate")
    batch = experiment.eval_batches(1)[3]
    condition = jax.tree.map(jnp.asarray, batch["condition"])
    denoise = experiment.generator.denoise(params, condition)
    clean, grid_times = jnp.asarray(batch["x"]), experiment.grid.times(sde)
    times = np.asarray(sde.time_of_log_snr(jnp.asarray(STRIP_LOG_SNR)), np.float32)
    noised = [sde.perturb(key, clean, jnp.full(1, t))[0] for t in times]
    one_step = jax.jit(lambda x, t: denoise(x, t).x0)

    def solve(x, t):
        grid = Given(np.append(t, grid_times[grid_times < t]))
        return sample(key, denoise, experiment.solver, grid, x.shape, x_start=x).x

    rows = noised, list(map(one_step, noised, times)), list(map(solve, noised, times))
    start, once, full = map(jnp.concatenate, rows)
    labels = [f"σ/α = {np.exp(-0.5 * snr):.2g}" for snr in STRIP_LOG_SNR]
    plots.denoising_strip(start, once, full, labels, path, clean=batch["x"][0])


def _draw_animation(experiment: Experiment, trajectory: np.ndarray, path: pathlib.Path) -> None:
    """The reverse SDE from noise to four rows of samples. Each frame is scaled to the standard deviation of the data."""
    columns = experiment.spec.num_classes or 10
    states = np.moveaxis(trajectory[: 4 * columns], 1, 0)
    scale = np.maximum(states.std(axis=tuple(range(1, states.ndim)), keepdims=True) / states[-1].std(), 1.0)
    plots.animation([plots.image_grid(x, columns=columns, upscale=6) for x in states / scale], path)


def _as_json(measured: Measured) -> dict:
    """The numbers for report.json."""
    judgements = {
        name: {"confidence": j.confidence, "coverage": j.coverage, "accuracy": j.accuracy, "count": j.count}
        for name, j in measured.judgements.items()
    }
    return {
        "bits_per_dim": bits_as_json(measured.bits),
        "classifier": judgements,
        "frechet_distance_of_pixels": measured.distances,
        "evaluations": measured.nfe,
        "loss_by_noise_level": {name: np.asarray(v).tolist() for name, v in measured.levels._asdict().items()},
        "seconds": measured.seconds,
    }


def _report(experiment: Experiment, workdir: pathlib.Path, measured: Measured) -> Report:
    """The page report.html."""
    size = sum(leaf.size for leaf in jax.tree.leaves(experiment.recipe.state_shapes().params))
    training = experiment.settings.training
    summary = (
        f"A {size / 1e6:.1f} M-parameter U-Net learned the score of 1,500 handwritten digits (8×8 pixels) under the "
        f"{type(experiment.sde).__name__} SDE in {training.num_steps:,} steps of {training.batch_size} images. Everything on "
        "this page was made by the command below."
    )
    sections: list[Section] = [
        Commands(_commands(workdir)),
        Numbers(_numbers(measured)),
        Pictures(_pictures(experiment, workdir)),
        Text("How to read it", READING),
        Table("Seconds", {name: f"{seconds:.1f}" for name, seconds in measured.seconds.items()}),
        Table("Configuration", plain(experiment.config), folded=True),
        Table("Environment", environment(), folded=True),
    ]
    return Report("score_sde quickstart", summary, sections)


READING = """The reverse SDE and the probability flow are two ways back from noise to data with the same distribution at every
noise level. The first is random at every step; the second is an ordinary differential equation, so that an image and the
noise it came from determine each other, which is what makes exact likelihoods possible.

Readability is judged by a kernel classifier that saw only the real training digits: accuracy is the share of samples
that it recognizes as the digit asked for. Compare with its accuracy on held-out real digits, the most that can be hoped
for, and on noise. The Fréchet distance compares means and covariances of pixels with the training digits. The distance
of the held-out digits is not zero, because other people wrote them."""


def _commands(workdir: pathlib.Path) -> list[str]:
    return [
        "make quickstart",
        f"score-sde sample --workdir={shlex.quote(str(workdir))} --num_samples=100",
        f"score-sde likelihood --workdir={shlex.quote(str(workdir))}",
    ]


def _numbers(measured: Measured) -> list[Number]:
    judged, held_out, noise = measured.judgements, "held-out digits", "noise"
    numbers = []
    for name in measured.nfe:
        sample, real, blank = (judged[key] for key in (name, held_out, noise))
        explanation = f"of {sample.count}; held-out real digits {real.accuracy:.3f}, noise {blank.accuracy:.3f}"
        numbers.append(
            Number(f"recognized as asked, {name}", float(sample.accuracy or 0), "", sample.accuracy_error, explanation)
        )
    for name in measured.nfe:
        reference = f"held-out real digits {measured.distances[held_out]:.2f}, noise {measured.distances[noise]:.1f}"
        numbers.append(Number(f"Fréchet distance of pixels, {name}", measured.distances[name], "", None, reference))
    bits = measured.bits
    explanation = (
        f"{bits.num_examples} held-out digits, given their label; of 17 grey levels: uniform noise would need "
        f"{np.log2(17):.2f}"
    )
    numbers.append(Number("negative log-likelihood", bits.mean, "bits/dim", bits.standard_error, explanation))
    for name, nfe in measured.nfe.items():
        numbers.append(Number(f"network evaluations per image, {name}", nfe, "", None, "counted, not assumed"))
    total = sum(measured.seconds.values())
    numbers.append(Number("time for all of it", total, "s", None, "compilation included"))
    return numbers


def _pictures(experiment: Experiment, workdir: pathlib.Path) -> list[Picture]:
    steps = len(experiment.grid.times(experiment.sde)) - 1
    return [
        Picture(
            workdir / "samples_sde.png", f"Samples of the reverse SDE, {steps} steps; one digit a column.", wide=False
        ),
        Picture(workdir / "samples_ode.png", "The same noise along the probability flow (adaptive).", wide=False),
        Picture(
            workdir / "guidance.png",
            f"The reverse SDE from the same noise, without and with classifier-free guidance of scale {SCALE:g}. At scale 1 "
            "the network is used as it was trained. A larger scale gives clearer and less varied digits, for two evaluations a "
            "step.",
        ),
        Picture(
            workdir / "strip.png", "A held-out digit at six noise levels, denoised in one step and by a whole solve."
        ),
        Picture(workdir / "reverse.webp", "The reverse SDE, from noise to digits.", wide=False),
        Picture(workdir / "loss.png", "Training loss (1 is a network that outputs zero).", wide=False),
        Picture(workdir / "noise_levels.png", "Error of the predicted noise on held-out digits, by noise level."),
    ]
