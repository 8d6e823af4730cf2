"""Sampling into a folder and likelihood in parts: an interruption loses and repeats nothing, on any devices and processes."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import quickstart
from experiments.results import run_likelihood
from score_sde.experiment import Experiment
from score_sde.generation.parts import NpzParts
from score_sde.run_config import from_workdir, write_config
from score_sde.runs import held_out_bits_per_dim, pick_params, read_state
from score_sde.runs.sampling import stream_samples
from score_sde.solvers.loop import _solve
from score_sde.trained import load, restored
from score_sde.training.saving.checkpoints import Checkpoints
from tests.multiprocess.launch import coordinator

NUMBER, BATCH, FIRST = 21, 8, 5


def tiny() -> ConfigDict:
    """A U-Net of one level on the labelled 8×8 digits, and few steps of a solver with noise."""
    config = quickstart.get_config()
    config.network.update({"channels": 8, "channel_multipliers": (1,), "attention_resolutions": ()})
    config.sampling.grid.num_steps = 4
    config.likelihood.update({"rtol": 1e-2, "atol": 1e-2, "batch_size": 8})
    config.training.batch_size = 8
    config.mesh.num_devices = 1
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A checkpoint of parameters far from zero; nothing is trained."""
    folder, experiment = tmp_path_factory.mktemp("run"), Experiment(tiny())
    with jax.numpy_dtype_promotion("standard"):
        state = experiment.recipe.init_state()
    leaves, treedef = jax.tree.flatten(state.params)
    noise = np.random.default_rng(0)
    leaves = [leaf + 0.2 * noise.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    params = jax.tree.unflatten(treedef, leaves)
    state = state._replace(params=params, ema=dict.fromkeys(state.ema, params))
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
        checkpoints.save(state, {})
    write_config(experiment, folder)
    return folder


def stream(workdir, folder, kind="npz", overrides=(), **options):
    options = {"first_index": FIRST, "quiet": True, **options}
    experiment = from_workdir(workdir, overrides)
    return stream_samples(restored(experiment, workdir), NUMBER, BATCH, kind=kind, output=folder, **options)


def tree(folder):
    """Every file's bytes by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def images(folder):
    """All images of a folder of parts, in order."""
    return np.concatenate([np.load(path)["x"] for path in sorted(folder.glob("part_*.npz"))])


@pytest.fixture(scope="module")
def whole(workdir, tmp_path_factory):
    """Folders of runs that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return {kind: stream(workdir, folder / kind, kind) for kind in ("npz", "npy", "png")}


def test_every_format_holds_the_images_of_one_large_batch(workdir, whole):
    experiment = from_workdir(workdir)
    params = pick_params(read_state(experiment, workdir), None)
    compiled = _solve._cache_size()
    wanted = experiment.generator(experiment.run_key("sample"), params, NUMBER, BATCH, FIRST)
    assert _solve._cache_size() == compiled  # nor did the short last batch compile anything
    image_u8, index = experiment.spec.image_u8(wanted.x), list(range(FIRST, FIRST + NUMBER))
    assert 10 < len(np.unique(image_u8)) <= 17 and wanted.condition["label"].tolist() == [i % 10 for i in index]
    assert np.array_equal(images(whole["npz"]), image_u8)
    assert np.array_equal(np.load(whole["npy"] / "x.npy", mmap_mode="r"), image_u8)
    for i, image in zip(index, image_u8, strict=True):
        assert np.array_equal(np.asarray(Image.open(whole["png"] / "00000" / f"{i:08d}.png")), image[..., 0])
    for kind in ("npy", "png"):
        for name, values in {"index": index, "label": wanted.condition["label"], "nfe": wanted.nfe}.items():
            assert np.load(whole[kind] / f"{name}.npy").tolist() == list(values)
        assert not (whole[kind] / "rows").exists()
    with np.load(whole["npz"] / f"part_{FIRST + 16:08d}.npz") as part:
        assert sorted(part) == ["index", "label", "nfe", "x"] and part["index"].tolist() == index[16:]
    manifest = json.loads((whole["npz"] / "manifest.json").read_text())
    assert (manifest["step"], manifest["num_samples"], manifest["ema"], manifest["config"]["seed"]) == (
        0,
        NUMBER,
        "5",
        0,
    )


@pytest.mark.slow
def test_states_on_the_way_are_kept_image_by_image(workdir):
    experiment = from_workdir(workdir)
    params, key = pick_params(read_state(experiment, workdir), None), experiment.run_key("sample")
    keeping = experiment.generator._replace(keep=(0, 2, 4))
    kept = keeping(key, params, NUMBER, BATCH, FIRST)
    assert kept.trajectory.shape == (NUMBER, 3, *kept.x.shape[1:])
    np.testing.assert_array_equal(kept.trajectory[:, -1], kept.x)
    np.testing.assert_array_equal(keeping(key, params, 2, BATCH, FIRST + 9).trajectory, kept.trajectory[9:11])
    assert experiment.generator(key, params, 2, BATCH).trajectory is None


@pytest.mark.slow
def test_an_image_alone_has_the_bits_that_it_has_among_others(workdir, tmp_path):
    """Wherever it stands in its batch: the program is that of a whole batch."""
    experiment = from_workdir(workdir)

    def draw(name, first, number):
        options = {"kind": "npz", "dtype": "float32", "first_index": first, "quiet": True}
        return images(stream_samples(restored(experiment, workdir), number, BATCH, output=tmp_path / name, **options))

    among_others = draw("all", FIRST, NUMBER)
    for place in (0, 3, BATCH + 5, NUMBER - 1):
        np.testing.assert_array_equal(draw(str(place), FIRST + place, 1), among_others[place : place + 1])


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", ["npz", pytest.param("npy", marks=pytest.mark.slow), "png"])
def test_stopped_after_a_part_and_resumed(kind, workdir, whole, tmp_path, monkeypatch):
    """The parts that are there are not drawn again."""
    experiment, drawn, draw = from_workdir(workdir), [], type(from_workdir(workdir).generator).batch

    def counted(self, key, params, batch_size, first_index=0, count=None):
        if len(drawn) == 1:
            drawn.append(None)
            raise KeyboardInterrupt
        drawn.append(first_index)
        return draw(self, key, params, batch_size, first_index, count)

    monkeypatch.setattr(type(experiment.generator), "batch", counted)
    with pytest.raises(KeyboardInterrupt):
        stream(workdir, tmp_path / kind, kind)
    stream(workdir, tmp_path / kind, kind)
    stream(workdir, tmp_path / kind, kind)
    assert drawn == [5, None, 13, 21] and tree(tmp_path / kind) == tree(whole[kind])


def command(workdir, folder, kind, *more, name="sample"):
    options = [] if name != "sample" else [f"--num_samples={NUMBER}", f"--batch_size={BATCH}", f"--first_index={FIRST}"]
    options += [f"--output={folder}", f"--format={kind}"] if name == "sample" else []
    return [sys.executable, "-m", f"experiments.{name}", f"--workdir={workdir}", *options, *more]


def environment(devices):
    return {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}


@pytest.mark.slow
def test_killed_by_the_system_and_resumed(workdir, whole, tmp_path):
    """SIGKILL as soon as the first image is on disk; then the same in this process."""
    folder = tmp_path / "png"
    run = subprocess.Popen(command(workdir, folder, "png"), env=environment(1), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while run.poll() is None and not list(folder.glob("0*/*.png")) and time.monotonic() < deadline:
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    _, errors = run.communicate()
    assert run.returncode in (0, -signal.SIGKILL), errors[-3000:]
    stream(workdir, folder, "png")
    assert tree(folder) == tree(whole["png"])


EIGHT = """
import sys, pathlib, jax
from score_sde.run_config import from_workdir
from score_sde.runs.sampling import stream_samples
from score_sde.trained import restored
workdir, output = map(pathlib.Path, sys.argv[1:])
for name, devices, batch in (("one", 1, 24), ("four", 4, 12), ("eight", 8, 24)):
    experiment = from_workdir(workdir, [f"mesh.num_devices={devices}", "training.batch_size=8"])
    stream_samples(restored(experiment, workdir), 24, batch, kind="npz", dtype="float32", output=output / name, quiet=True)
"""


@pytest.fixture(scope="module")
def eight(workdir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    arguments = [sys.executable, "-c", EIGHT, str(workdir), str(folder)]
    run = subprocess.run(arguments, env=environment(8), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


def test_an_image_is_the_same_on_one_and_on_eight_devices(eight):
    """To the bit where each device has as many images, so that XLA compiles the same program for each.

    Elsewhere (one device is not partitioned at all) its sums are in another order: 1.5e-6 apart when this was written.
    """
    one, four, of_eight = (images(eight / name) for name in ("one", "four", "eight"))
    assert four.shape == (24, 8, 8, 1) and np.array_equal(four, of_eight)
    np.testing.assert_allclose(one, of_eight, rtol=0, atol=1e-5)


def run_two(make_command, devices=2):
    """Two processes at once, each with so many devices; their outputs."""
    join = [f"--coordinator_address={coordinator()}", "--num_processes=2", "--distributed=on"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [
        subprocess.Popen([*make_command(), *join, f"--process_id={i}"], env=environment(devices), **pipes)
        for i in range(2)
    ]
    outputs = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(errors[-2000:] for _, errors in outputs)
    return [output for output, _ in outputs]


@pytest.mark.slow
def test_two_processes_write_the_files_of_one(workdir, eight, tmp_path):
    """Two times two devices against four of one process: each process writes every other part."""

    def arguments():
        options = ["--num_samples=24", "--batch_size=12", "--first_index=0", "--dtype=float32"]
        devices = ["--set=mesh.num_devices=None", "--set=training.batch_size=8"]
        return [*command(workdir, tmp_path / "two", "npz"), *options, *devices]

    outputs = run_two(arguments)
    assert tree(tmp_path / "two") == tree(eight / "four")
    assert sum("24 samples" in text for text in outputs) == 1


def all_of(folder, kind):
    """(x, index, label, nfe) of a finished folder."""
    if kind == "npz":
        parts = [np.load(path) for path in sorted(folder.glob("part_*.npz"))]
        return [np.concatenate([part[name] for part in parts]) for name in ("x", "index", "label", "nfe")]
    rows = [np.load(folder / f"{name}.npy") for name in ("index", "label", "nfe")]
    if kind == "npy":
        return [np.load(folder / "x.npy"), *rows]
    x = [np.asarray(Image.open(folder / "00000" / f"{i:08d}.png"))[..., None] for i in rows[0]]
    return [np.stack(x), *rows]


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", ["npz", pytest.param("npy", marks=pytest.mark.slow), "png"])
def test_more_samples_and_another_batch_size_go_on_in_the_same_folder(kind, workdir, whole, tmp_path):
    """And a folder that an earlier version began, whose manifest names its batch size."""
    experiment, folder = from_workdir(workdir), tmp_path / kind

    def draw(number, batch_size):
        options = {"kind": kind, "output": folder, "first_index": FIRST, "quiet": True}
        stream_samples(restored(experiment, workdir), number, batch_size, **options)

    draw(5, BATCH)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"batch_size": BATCH}))
    first = {name: content for name, content in tree(folder).items() if ".png" in name or "part_" in name}
    draw(13, 4)
    draw(NUMBER, BATCH)
    assert json.loads((folder / "manifest.json").read_text()) == json.loads((whole[kind] / "manifest.json").read_text())
    wanted = all_of(whole[kind], kind)
    for ours, theirs in zip(all_of(folder, kind), wanted, strict=True):
        assert ours.dtype == theirs.dtype
        assert np.abs(ours.astype(int) - theirs).max() <= (1 if ours is not wanted[1] and ours.ndim > 1 else 0)
    assert {name: content for name, content in tree(folder).items() if name in first} == first  # not drawn again
    assert not (folder / "rows").exists() and not (folder / "x.npy.partial").exists()
    with pytest.raises(
        ValueError, match=r"was begun with num_samples=21, got 5; take as many or more, or name another"
    ):
        draw(5, BATCH)


def test_a_folder_of_other_samples_is_refused(workdir, whole, tmp_path):
    with pytest.raises(ValueError, match=r"begun with something else: config.sampling.grid.num_steps: 4 there, 5 here"):
        stream(workdir, whole["npz"], overrides=["sampling.grid.num_steps=5"])
    with pytest.raises(ValueError, match=r"first_index: 5 there, 0 here"):
        stream(workdir, whole["npy"], "npy", first_index=0)
    other = tmp_path / "other"
    manifest = json.loads((whole["npz"] / "manifest.json").read_text()) | {"parameters": "0123", "step": 7}
    other.mkdir()
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"parameters: '0123' there, .* here; step: 7 there, 0 here"):
        stream(workdir, other)
    (other / "manifest.json").rename(other / "holiday.png")
    with pytest.raises(FileExistsError, match=r"holds files but no manifest.json; name an empty"):
        stream(workdir, other)


def test_errors(workdir, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"--format needs one of .*, got 'gif'"):
        stream(workdir, tmp_path / "a", "gif")
    with pytest.raises(ValueError, match=r"--dtype needs one of .*, got 'int8'"):
        stream(workdir, tmp_path / "a", dtype="int8")
    with pytest.raises(ValueError, match=r"--format=png needs images .* as uint8, got shape \(8, 8, 1\) as float32"):
        stream(workdir, tmp_path / "a", "png", dtype="float32")
    with pytest.raises(ValueError, match=r"needs num_samples, batch_size >= 1, got 0 and 8"):
        stream_samples(load(workdir), 0, 8, output=tmp_path / "a")
    generator = type(from_workdir(workdir).generator)
    draw = generator.batch

    def broken(self, *args):
        part = draw(self, *args)
        x = part.x.copy()
        x[2] = np.nan
        return part._replace(x=x)

    monkeypatch.setattr(generator, "batch", broken)
    with pytest.raises(FloatingPointError, match=r"Image 7 is not finite \(1 in this batch\).*--dtype=float32"):
        stream(workdir, tmp_path / "b")


@pytest.mark.slow
def test_likelihood_stopped_and_resumed(workdir, monkeypatch):
    """20 examples in batches of 8: the mean is the same to the bit, and what is there is not computed again."""
    experiment = from_workdir(workdir)
    params = pick_params(read_state(experiment, workdir), None)
    wanted = held_out_bits_per_dim(experiment, params, 20, quiet=True)
    written, write = [], NpzParts.write

    def stops(self, first, arrays):
        if len(written) == 2:
            written.append(None)
            raise KeyboardInterrupt
        written.append(first)
        write(self, first, arrays)

    monkeypatch.setattr(NpzParts, "write", stops)
    with pytest.raises(KeyboardInterrupt):
        held_out_bits_per_dim(experiment, params, 20, quiet=True, folder=workdir / "likelihood")
    bits = run_likelihood(restored(experiment, workdir), max_examples=20)
    assert written == [0, 8, None, 16] and bits.num_examples == 20
    assert bits.mean == wanted.mean and bits.interval == wanted.interval and bits.nfe == wanted.nfe
    assert np.array_equal(bits.per_example, wanted.per_example)
    assert json.loads((workdir / "likelihood.json").read_text())["mean"] == wanted.mean
    held_out_bits_per_dim(experiment, params, 9, quiet=True, folder=workdir / "likelihood")
    assert len(list((workdir / "likelihood").iterdir())) == 2  # other examples, another folder


@pytest.mark.slow
def test_likelihood_in_two_processes(workdir):
    """The same values as in one process, and one file."""
    one = held_out_bits_per_dim(
        from_workdir(workdir), pick_params(read_state(from_workdir(workdir), workdir), None), 20
    )
    options = ["--max_examples=20", "--set=mesh.num_devices=None"]
    outputs = run_two(lambda: command(workdir, None, "", *options, name="likelihood"))
    result = json.loads((pathlib.Path(workdir) / "likelihood.json").read_text())
    assert sum("bits/dim on 20 examples" in text for text in outputs) == 1
    np.testing.assert_allclose(result["mean"], one.mean, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npz", "npy", "png"])
def test_killed_at_many_moments(kind, workdir, whole, tmp_path):
    """SIGKILL after random times, six times in a row, until the folder is whole."""
    folder, random = tmp_path / kind, np.random.default_rng(0)
    for _ in range(6):
        run = subprocess.Popen(command(workdir, folder, kind), env=environment(1), stderr=subprocess.DEVNULL)
        try:
            run.wait(random.uniform(2, 8))
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
    stream(workdir, folder, kind)
    assert tree(folder) == tree(whole[kind])


@pytest.mark.slow
def test_a_threshold_of_the_config(workdir, tmp_path):
    """Images of a solver that ends with x̂0 end within the limit, and another thresholding is another result."""
    last = "sampling.grid={'name': 'uniform', 'num_steps': 3, 'to_zero': True}"
    plain = stream(workdir, tmp_path / "plain", overrides=(last,), dtype="float32")
    kept = (last, "sampling.threshold={'name': 'static', 'limit': 0.25}")
    limited = stream(workdir, tmp_path / "limited", overrides=kept, dtype="float32")
    assert np.abs(images(plain)).max() > 0.5
    assert 0.2 < np.abs(images(limited)).max() <= 0.25 + 1e-6
    sampling = [json.loads((folder / "manifest.json").read_text())["config"]["sampling"] for folder in (plain, limited)]
    assert "threshold" not in sampling[0]
    assert sampling[1]["threshold"] == {"name": "static", "limit": 0.25}
    with pytest.raises(ValueError, match="was begun with something else: .*threshold"):
        stream(workdir, limited, overrides=(last,), dtype="float32")
