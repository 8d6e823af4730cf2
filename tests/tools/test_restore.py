"""score-sde restore: what is written, what it agrees with, and one sentence for every mistake with nothing written."""

import contextlib
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import quickstart
from score_sde.experiment import Experiment
from score_sde.guidance import inverse as inv
from score_sde.guidance import operators as ops
from score_sde.run_config import from_workdir, write_config
from score_sde.solvers import DDIM, Restart, grids
from score_sde.tools import restoration_tasks as tasks
from score_sde.tools.restore import Restored, run_restoration, write
from score_sde.training.saving.checkpoints import Checkpoints

RNG = np.random.default_rng(0)
FOUR = ("sampling.grid.num_steps=4", "sampling.label=3")


def tiny() -> ConfigDict:
    config = quickstart.get_config()
    config.network.update({"channels": 8, "channel_multipliers": (1,), "attention_resolutions": ()})
    config.mesh.num_devices = 1
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A checkpoint of a network that is not trained, two images, and a mask whose left half is white."""
    folder, experiment = tmp_path_factory.mktemp("run"), Experiment(tiny())
    with jax.numpy_dtype_promotion("standard"), contextlib.closing(Checkpoints(folder)) as checkpoints:
        checkpoints.save(experiment.recipe.init_state(), {})
    write_config(experiment, folder)
    (folder / "photos").mkdir()
    for name, size in (("photos/a.png", 8), ("photos/b.png", 8), ("small.png", 4), ("large.png", 20)):
        Image.fromarray(RNG.integers(0, 256, (size, size), np.uint8)).save(folder / name)
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    (folder / "no_image.png").write_bytes(b"no image")
    return folder


def run(workdir, source, task, method, overrides=FOUR, **options):
    with jax.numpy_dtype_promotion("standard"):
        experiment = from_workdir(workdir, list(overrides))
        return run_restoration(experiment, workdir, workdir / source, task, method, **options)


def test_inpainting_of_a_folder(workdir, capsys):
    """Seen pixels without noise stay as they are; the files, the arrays and the scores are of the same images."""
    options = {"mask": workdir / "mask.png", "noise_std": 0.0, "num_draws": 2}
    output = run(workdir, "photos", "inpaint", "replacement", **options)
    arrays = np.load(output / "restored.npz")
    assert arrays["draws"].shape == (2, 2, 8, 8, 1) and [*arrays["names"]] == ["a.png", "b.png"]
    original = np.asarray(Image.open(workdir / "photos" / "a.png"))
    for draw in range(2):
        written = np.asarray(Image.open(output / f"a_draw_{draw:02d}.png").convert("L"))
        assert np.array_equal(written[:, :4], original[:, :4])
        assert not np.array_equal(written[:, 4:], original[:, 4:])
    assert not np.allclose(arrays["draws"][0, 0], arrays["draws"][0, 1])
    assert np.all(arrays["y"][:, :, 4:] == 0)
    expected = {f"{n}_{part}.png" for n in "ab" for part in ("measurement", "mean", "spread", "draw_00", "draw_01")}
    assert {path.name for path in output.iterdir()} == expected | {"strip.png", "restored.npz", "scores.json"}
    scores = json.loads((output / "scores.json").read_text())
    error = np.mean((np.clip(arrays["draws"][0], -1, 1)[..., 0] - (original / 127.5 - 1)) ** 2, axis=(1, 2))
    assert abs(scores["images"][0]["draws"]["psnr"] - np.mean(10 * np.log10(4 / error))) < 1e-3
    assert scores["task"] == "inpaint" and "2 images, 2 draws each" in capsys.readouterr().out


@pytest.mark.slow
def test_a_measurement_as_input(workdir):
    """A small image, with and without its original; particles."""
    options = {"input_is": "measurement", "settings": tasks.TaskSettings(factor=2), "num_draws": 3}
    options["output"] = workdir / "particles"
    output = run(workdir, "small.png", "superres", "tds", ("sampling.label=3", "sampling.grid.num_steps=3"), **options)
    assert np.load(output / "restored.npz")["y"].shape == (1, 4, 4, 1)
    assert json.loads((output / "scores.json").read_text())["images"] == [{"name": "small.png"}]
    options |= {"original": workdir / "photos" / "a.png", "output": workdir / "with_original", "num_draws": 1}
    output = run(workdir, "small.png", "superres", "dps(scale=0.1)", **options)
    assert json.loads((output / "scores.json").read_text())["images"][0]["draws"]["psnr"] > 0


@pytest.mark.few(6)
@pytest.mark.parametrize(
    ("source", "task", "method", "options", "message"),
    [
        ("nothing.png", "denoise", "ddrm", {}, "--input needs an image or a folder of images, got .*nothing.png"),
        ("no_image.png", "denoise", "ddrm", {}, "no_image.png"),
        ("large.png", "denoise", "ddrm", {}, r"large.png needs 8×8 pixels .*, got 20×20; resize it, or add --resize"),
        ("photos", "inpaint", "ddrm", {}, "--task=inpaint needs it: an image, white where x is seen"),
        ("photos", "inpaint", "ddrm", {"mask": "large.png"}, "large.png needs 8×8 pixels"),
        ("photos", "inpaint", "ddrm", {"mask": "none.png"}, "There is no image .*none.png"),
        ("photos", "denoise", "ddrm", {"mask": "mask.png"}, "--mask goes with --task=inpaint"),
        ("photos", "sharpen", "ddrm", {}, "--task needs one of .* got 'sharpen'"),
        ("photos", "denoise", "drm", {}, "--method needs one of .* got 'drm'. Did you mean 'ddrm'"),
        (
            "photos",
            "denoise",
            "dps(0.5)",
            {},
            r"A method is written as name or name\(field=value, …\), got 'dps\(0.5\)'",
        ),
        ("photos", "denoise", "pigdm(std=1)", {}, r"--method=pigdm has the fields \['data_std'.* got 'std'"),
        ("photos", "jpeg", "pigdm", {}, "--method=pigdm needs a linear operator, got Jpeg; use dps, lgd, daps"),
        ("photos", "colorize", "ddrm", {}, "Grey needs images with 3 channels"),
        ("photos", "superres", "ddrm", {"settings": tasks.TaskSettings(factor=3)}, "multiples of 3"),
        ("photos", "denoise", "ddrm", {"num_draws": 0}, "restore needs num_draws >= 1"),
        ("photos", "denoise", "ddrm", {"original": "small.png"}, "--original goes with --input_is=measurement"),
        ("photos", "denoise", "ddnm", {}, "DDNM needs noise_std = 0, got noise_std=0.05; use DDNMPlus"),
        (
            "photos",
            "project",
            "ddrm",
            {"input_is": "measurement", "settings": tasks.TaskSettings(number=3)},
            "is an image",
        ),
        ("photos", "denoise", "ddrm", {"output": "photos"}, "photos is there already"),
    ],
)
def test_mistakes_write_nothing(workdir, source, task, method, options, message):
    paths = {key: workdir / value for key, value in options.items() if isinstance(value, str) and key != "input_is"}
    before = sorted(workdir.rglob("*"))
    with pytest.raises((ValueError, OSError), match=message):
        run(workdir, source, task, method, **{"output": workdir / "mistake", **options, **paths})
    assert sorted(workdir.rglob("*")) == before


def test_a_failed_solve_writes_nothing(workdir):
    before = sorted(workdir.rglob("*"))
    with pytest.raises(FloatingPointError, match="The restoration of a.png is not finite; take more steps"):
        run(workdir, "photos", "denoise", "dps(scale=1e38)", num_draws=1)
    assert sorted(workdir.rglob("*")) == before


def test_an_interrupt_while_files_are_written_leaves_none(tmp_path, monkeypatch):
    image = np.zeros((8, 8, 1), np.float32)
    done = [Restored("a.png", None, image, image, image[None])]
    write(tmp_path / "whole", done, [{}], {})
    assert (tmp_path / "whole" / "restored.npz").is_file()

    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "half", done, [{}], {})
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_the_method_of_the_config(workdir):
    """Without --method; the flags give the operator and the noise, whatever the config says of them."""
    section = "{'name': 'ddrm', 'eta': 0.5, 'operator': {'name': 'grey'}, 'noise_std': 3.0}"
    options = {"settings": tasks.TaskSettings(factor=2), "num_draws": 2, "noise_std": 0.0}
    output = run(workdir, "photos/a.png", "superres", None, (*FOUR, f"sampling.guidance={section}"), **options)
    assert output.name == "superres_ddrm"
    arrays = np.load(output / "restored.npz")
    np.testing.assert_allclose(
        ops.BlockAverage(2)(jnp.asarray(arrays["draws"][0])), arrays["y"].repeat(2, axis=0), atol=1e-5
    )


def test_methods_as_text():
    operator, grid = ops.BlockAverage(2), grids.LogSNRUniform(4)
    ended = grids.LogSNRUniform(4, to_zero=True)
    made = {name: tasks.method_of(name, operator, 0.0 if name == "ddnm" else 0.1, DDIM(), grid) for name in inv.METHODS}
    assert made["pigdm"].rule == inv.PiGDM(operator, 0.1) and made["pigdm"].solver == DDIM()
    assert made["repaint"].solver == Restart(inv.Replacement()) and made["repaint"].grid == grids.Jumps(ended)
    assert made["pigdm"].grid == grid and made["ddrm"].grid == made["ddnm"].grid == ended
    assert made["tds"].is_particles and not made["ddrm"].is_particles
    found = tasks.method_of("dps(scale=0.5, solver=ddim(eta=0.3))", operator, 0.1, DDIM(), grid)
    assert found.solver == inv.DPS(DDIM(0.3), 0.5) and found.rule == inv.Measured(operator, 0.1)


def test_tasks_as_operators():
    shape, settings = (16, 16, 3), tasks.TaskSettings(blur_std=2.0, factor=2, quality=5.0, number=7)
    made = {task: tasks.operator_of(task, shape, settings) for task in tasks.TASKS if task != "inpaint"}
    assert made["deblur"] == ops.GaussianBlur(2.0, 8) and made["superres"] == ops.BlockAverage(2)
    assert made["jpeg"] == ops.Jpeg(5.0) and made["project"] == ops.RandomProjection(7)
    x = jnp.asarray(RNG.uniform(-1, 1, (1, *shape)), jnp.float32)
    np.testing.assert_allclose(made["denoise"](x), x)


def test_the_command(workdir):
    """As a user calls it: one line for a mistake, and no trace."""
    command = [
        sys.executable,
        "-m",
        "experiments.restore",
        f"--workdir={workdir}",
        "--task=denoise",
        "--input=missing.png",
    ]
    found = subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2])
    assert found.returncode == 1 and "Traceback" not in found.stderr
    assert "Error: --input needs an image or a folder of images, got missing.png" in found.stderr
