"""Restores images from measurements with a trained model: the command `score-sde restore`."""

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from score_sde import parallel, plots
from score_sde.data.decoding import ImageDecoder
from score_sde.data.listing import list_images
from score_sde.denoising.denoiser import Params
from score_sde.experiment import Experiment
from score_sde.guidance import guide
from score_sde.guidance.inverse import Restoration
from score_sde.guidance.operators import Linear, Mask, Operator
from score_sde.importers.lpips import load_lpips, lpips_path
from score_sde.metrics.features.lpips import LEAST_SIZE, lpips_distance
from score_sde.metrics.psnr import psnr
from score_sde.metrics.ssim import WINDOW, ssim
from score_sde.solvers import sample
from score_sde.tools.restoration_tasks import Method, TaskSettings, method_of, operator_of, restoration_of
from score_sde.trained import restored
from score_sde.training.reporter import Reporter

Image = Float[np.ndarray, "h w c"]
INPUTS = ("original", "measurement")
DEFAULTS = TaskSettings()


@dataclasses.dataclass(frozen=True)
class Restored:
    """One image: its file, the original (None: not known), y, y as an image, and the draws [n, h, w, c]."""

    name: str
    original: Image | None
    y: Float[np.ndarray, "*m"]
    shown: Float[np.ndarray, "rows columns _"]
    draws: Float[np.ndarray, "n h w c"]


def run_restoration(
    experiment: Experiment,
    workdir: pathlib.Path,
    input_path: pathlib.Path,
    task: str,
    method: str | None = None,
    *,
    mask: pathlib.Path | None = None,
    settings: TaskSettings = DEFAULTS,
    noise_std: float = 0.05,
    num_draws: int = 4,
    input_is: str = "original",
    original: pathlib.Path | None = None,
    resize: bool = False,
    lpips: pathlib.Path | None = None,
    checkpoint: int | None = None,
    ema: str | None = None,
    output: pathlib.Path | None = None,
    reporter: Reporter | None = None,
) -> pathlib.Path:
    """Measures every image (or takes it as the measurement), draws x0 given y, and writes a folder. Returns the folder.

    For each image it writes the measurement, the draws, their mean and their standard deviation as
    PNG. For all images it writes restored.npz, one strip picture, and scores.json with PSNR, SSIM
    and LPIPS where the original is known. All inputs are checked before the checkpoint is read. The
    folder is complete or absent.

    Args:
      input_path: an image or a folder of images.
      mask: an image, white where a pixel is measured.
      method: the method, such as "pigdm" or "dps(scale=0.5)". None: the method that
        sampling.guidance of the config names, or "pigdm".
      noise_std: σ_y, in units of images in [−1, 1].
      input_is: "original": y is measured from the input, with noise. "measurement": the input is y
        itself.
      original: the originals, with input_is="measurement": an image, or a folder with the same
        names.
      resize: whether to crop and resize inputs to the model's size. Otherwise other sizes raise an
        error.
      lpips: the LPIPS weights. None: the imported weights, if there are any.
    Raises: ValueError, FileNotFoundError or FileExistsError, in one sentence, for anything that
      does not fit.
    """
    shape = experiment.spec.shape
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(f"restore needs a model of images [h, w, 1 or 3], got {shape}.")
    if num_draws < 1 or input_is not in INPUTS or not noise_std >= 0:
        raise ValueError(
            f"restore needs num_draws >= 1, noise_std >= 0 and input_is one of {INPUTS}, got {num_draws=}, {noise_std=}, "
            f"{input_is=}."
        )
    if original is not None and input_is == "original":
        raise ValueError("--original goes with --input_is=measurement; otherwise the input is the original.")
    named = experiment.restoration if method is None else restoration_of(method)
    named = named or restoration_of("pigdm")
    output = output or workdir / "restored" / f"{task}_{named.name}"
    if output.exists():
        raise FileExistsError(f"{output} is there already; remove it, or choose another folder with --output.")
    if mask is not None:
        settings = dataclasses.replace(
            settings, mask=(read_image(mask, (*shape[:2], 1), resize) >= 0).astype(np.float32)
        )
    operator = operator_of(task, shape, settings)
    how = method_of(named, operator, noise_std, *experiment.plain_how())
    inputs = _read_inputs(input_path, operator, shape, input_is, original, resize)
    tensors = _lpips_tensors(lpips, shape)
    check_condition(experiment)
    trained, reporter = restored(experiment, workdir, checkpoint, ema), reporter or Reporter()
    done = []
    with reporter.progress(len(inputs), batch_size=num_draws, name="restore") as progress:
        for i, (name, known, y) in enumerate(inputs):
            key = jax.random.fold_in(experiment.run_key("sample"), i)
            if y is None:
                y = measure(jax.random.fold_in(key, 2**32 - 1), operator, known, noise_std)
            draws = draw(key, experiment, trained.placed, how, y, num_draws)
            if not np.isfinite(draws).all():
                raise FloatingPointError(
                    f"The restoration of {name} is not finite; take more steps (--set=sampling.grid.num_steps=…), a smaller "
                    "scale of the method, or a larger --noise_std."
                )
            done.append(Restored(name, known, y, as_image(operator, y, shape), draws))
            progress.update(i + 1)
    scores = [score(each, tensors) for each in done]
    if jax.process_index() == 0:
        write(
            output,
            done,
            scores,
            {"task": task, "method": method or named.name, "noise_std": noise_std, "step": trained.step},
        )
    reporter.say(f"{len(done)} images, {num_draws} draws each, in {output}{_in_words(scores)}")
    return output


def read_image(path: pathlib.Path, shape: tuple[int, ...], resize: bool = False) -> Image:
    """The image in [−1, 1] with the channels of `shape`.

    Raises: FileNotFoundError where there is no such file. ValueError where it is not an image, or
      has another size.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path}.")
    decoder = ImageDecoder(channels=shape[-1], convert=True, image_size=(shape[0], shape[1]) if resize else None)
    pixels = decoder(path, str(path))
    if pixels.shape != shape:
        raise ValueError(
            f"{path} needs {shape[0]}×{shape[1]} pixels (height × width), got {pixels.shape[0]}×{pixels.shape[1]}; resize "
            "it, or add --resize."
        )
    return pixels.astype(np.float32) / 127.5 - 1


def _read_inputs(path, operator, shape, input_is, original, resize):
    """[(name, the original or None, y or None)] for all inputs, checked."""
    if not path.exists():
        raise FileNotFoundError(f"--input needs an image or a folder of images, got {path}, which is not there.")
    names = list_images(path).files if path.is_dir() else (path.name,)
    folder = path if path.is_dir() else path.parent
    if not names:
        raise FileNotFoundError(f"--input needs a folder with images, got {path}, which has none.")
    if input_is == "original":
        return [(name, read_image(folder / name, shape, resize), None) for name in names]
    measured = operator.measured_shape(shape)
    if len(measured) != 3 or measured[-1] not in (1, 3):
        raise ValueError(f"--input_is=measurement needs a task whose measurement is an image, got shape {measured}.")
    found = []
    for name in names:
        y = read_image(folder / name, measured, resize)
        y = _visible(operator, y)
        known = None
        if original is not None:
            known = read_image(original / name if original.is_dir() else original, shape, resize)
        found.append((name, known, y))
    return found


def _visible(operator: Operator, y: np.ndarray) -> np.ndarray:
    """y, with 0 where a mask measures nothing.

    So y has no noise there, and the pixels of a damaged photograph do not count there.
    """
    return np.asarray(operator(jnp.asarray(y)[None])[0]) if isinstance(operator, Mask) else y


def measure(key: jax.Array, operator: Operator, x0: Image, noise_std: float) -> np.ndarray:
    """A(x0) + noise_std n."""
    y = operator(jnp.asarray(x0)[None])[0]
    return _visible(operator, np.asarray(y + noise_std * jax.random.normal(key, y.shape, y.dtype)))


def check_condition(experiment: Experiment) -> None:
    """Raises ValueError for a model that needs a condition, if its training did not drop conditions."""
    if experiment.spec.conditions and experiment.settings.sampling.label is None and not _drops(experiment):
        raise ValueError(
            "This model needs a condition, and was trained without condition_dropout; give the class of the images with "
            "--set=sampling.label=…"
        )


def _drops(experiment: Experiment) -> bool:
    """Whether training showed the null condition."""
    return bool((experiment.settings.task or {}).get("condition_dropout"))


def draw(
    key: jax.Array, experiment: Experiment, params: Params, how: Method, y: np.ndarray, number: int
) -> Float[np.ndarray, "n h w c"]:
    """`number` draws of x0 given y."""
    mesh, shape = experiment.mesh, experiment.spec.shape
    rows = 1 if how.is_particles else parallel.round_up(number, mesh)
    sharding = None if how.is_particles else parallel.batch_sharding(mesh)
    condition = dict(experiment.sampling_condition(0, rows))
    model = experiment.denoiser.bind(params, condition)
    if condition and experiment.settings.sampling.label is None:
        model = model.with_condition(model.null_condition())
    rules = [rule for rule in experiment.guidance if not isinstance(rule, Restoration)]
    denoise = guide(model, (*rules, how.rule), {"y": jnp.broadcast_to(y[None], (rows, *y.shape))})
    whole = (1, number, *shape) if how.is_particles else (rows, *shape)
    x = parallel.to_host(sample(key, denoise, how.solver, how.grid, whole, sharding=sharding).x)
    return x[0] if how.is_particles else x[:number]


def as_image(operator: Operator, y: np.ndarray, shape: tuple[int, ...]) -> Float[np.ndarray, "rows columns _"]:
    """y where it is an image, else the result of its pseudo-inverse. Fourier coefficients are on a logarithmic scale."""
    if y.ndim == 3 and y.shape[-1] in (1, 3) and isinstance(operator, Linear):
        return y
    if isinstance(operator, Linear):
        return np.asarray(operator.pseudo_inverse(jnp.asarray(y)[None], shape)[0])
    if y.shape == shape:
        return y
    sizes = np.log1p(np.maximum(y, 0))
    return 2 * np.fft.fftshift(sizes, axes=(0, 1)) / max(sizes.max(), 1e-9) - 1


def _lpips_tensors(path: pathlib.Path | None, shape: tuple[int, ...]) -> Any:
    """The weights of `path`, or the imported weights if there are any and the images are large enough."""
    if path is not None:
        return load_lpips(path)
    return load_lpips() if lpips_path().is_file() and min(shape[:2]) >= LEAST_SIZE else None


def score(image: Restored, tensors: Any) -> dict[str, Any]:
    """PSNR, SSIM and LPIPS of the draws (their mean) and of their mean image. Empty where the original is not known."""
    if image.original is None:
        return {}
    mean = np.mean(image.draws, axis=0, keepdims=True)
    result: dict[str, Any] = {}
    for name, x in (("draws", image.draws), ("mean", mean)):
        x = np.clip(x, -1, 1)
        target = np.broadcast_to(image.original[None], x.shape)
        result[name] = {"psnr": float(psnr(x, target).mean())}
        if min(x.shape[1:3]) >= WINDOW:
            result[name]["ssim"] = float(ssim(x, target).mean())
        if tensors is not None:
            result[name]["lpips"] = float(jnp.mean(lpips_distance(tensors, jnp.asarray(x), jnp.asarray(target))))
    return result


def _in_words(scores: Sequence[dict[str, Any]]) -> str:
    known = [each for each in scores if each]
    if not known:
        return ""
    names = known[0]["draws"]
    means = {name: np.mean([each["draws"][name] for each in known]) for name in names}
    return "; draws against the originals: " + ", ".join(f"{name.upper()} {mean:.3f}" for name, mean in means.items())


def write(
    output: pathlib.Path, done: Sequence[Restored], scores: Sequence[dict[str, Any]], facts: dict[str, Any]
) -> None:
    """Writes the folder under another name, and renames it when it is complete."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        for each in done:
            stem = temporary / pathlib.PurePosixPath(each.name).with_suffix("")
            named = {"measurement": each.shown, "mean": each.draws.mean(axis=0)}
            named |= {f"draw_{i:02d}": x for i, x in enumerate(each.draws)}
            named["spread"] = 2 * each.draws.std(axis=0) - 1  # black: all draws agree; white: a deviation of 1
            for name, picture in named.items():
                pixels = plots.to_uint8(picture)
                plots.save_image(
                    stem.with_name(f"{stem.name}_{name}.png"), pixels.repeat(3 if pixels.shape[-1] == 1 else 1, -1)
                )
        plots.save_image(temporary / "strip.png", strip(done))
        arrays: dict[str, Any] = {
            "draws": np.stack([each.draws for each in done]),
            "y": np.stack([each.y for each in done]),
        }
        arrays["names"] = np.asarray([each.name for each in done])
        np.savez(temporary / "restored.npz", **arrays)
        rows = [{"name": each.name, **row} for each, row in zip(done, scores, strict=True)]
        (temporary / "scores.json").write_text(json.dumps({**facts, "images": rows}, indent=2) + "\n")
        temporary.chmod(0o755)
        os.rename(temporary, output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


SHOWN = 16  # the most images of the strip


def strip(done: Sequence[Restored]) -> np.ndarray:
    """A row for each image: the original if it is known, the measurement, at most four draws, their mean and spread."""
    rows: list[np.ndarray] = []
    captions: list[str] = []
    for each in done[:SHOWN]:
        row = {} if each.original is None else {"original": each.original}
        row["measured"] = _enlarged(each.shown, each.draws.shape[1:])
        row |= {f"draw {i}": x for i, x in enumerate(each.draws[:4])}
        row |= {"mean": each.draws.mean(axis=0), "spread": 2 * each.draws.std(axis=0) - 1}
        rows.extend(row.values())
        captions.extend(row)
    return plots.image_grid(np.stack(rows), columns=len(rows) // len(done[:SHOWN]), captions=captions)


def _enlarged(image: Float[np.ndarray, "rows columns _"], shape: tuple[int, ...]) -> Image:
    """The nearest pixels of `image`, in the size and with the channels of `shape`."""
    down, right = (np.arange(n) * m // n for n, m in zip(shape[:2], image.shape[:2], strict=True))
    return np.broadcast_to(image[down][:, right], shape) if image.shape[-1] == 1 else image[down][:, right]
