"""Checkpoints that are damaged, foreign or half written, or that cannot be written at all."""

import contextlib
import gc
import hashlib
import json
import logging
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.training.saving import checkpoints as module
from score_sde.training.saving import plain_path as plain_path_module
from score_sde.training.saving.checkpoints import Checkpoints
from score_sde.training.saving.integrity import MANIFEST, find_damage, write_manifest
from score_sde.training.saving.verification import WRITTEN_LAST
from score_sde.training.state import TrainState


def state_at(step: int, size: int = 8) -> TrainState:
    arrays = {"w": jnp.arange(size, dtype=jnp.float32) + step, "b": jnp.full((3,), 0.1 * step, jnp.bfloat16)}
    return TrainState(jnp.asarray(step, jnp.int32), arrays, {"50": {"w": arrays["w"] / 3}}, (jnp.zeros(2),))


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def save(workdir, *steps, **options):
    with contextlib.closing(Checkpoints(workdir, **options)) as checkpoints:
        for step in steps:
            checkpoints.save(state_at(step), {"seed": 0}, {"tally": {"loss": 0.1}})


def restore(workdir, step=None):
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        return checkpoints.run(step), checkpoints.restore(state_at(0), step)


@pytest.fixture(autouse=True)
def no_thread_stays():
    """The interpreter waits for every thread that is no daemon before it exits, however long that waits."""
    before = set(threading.enumerate())
    yield
    new = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    for thread in new:
        thread.join(10)
    assert not [thread for thread in new if thread.is_alive()]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("saved")
    save(workdir, 10, 20)
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


ODD = ["vp[lr=1e-3]", "*", "all {of} them? 100%41 #1 'a' \"b\" \n ä雪 \\ ~ $HOME ` gs: \udcff"]


@pytest.mark.few(3)
@pytest.mark.parametrize("descriptors", ["/proc/self/fd", "/no/such/folder"])
@pytest.mark.parametrize("name", ODD, ids=["brackets", "star", "all"])
def test_any_path_will_do(name, descriptors, tmp_path, monkeypatch):
    """Also beside a folder that the path matches as a pattern, and where /proc is not there."""
    monkeypatch.setattr(plain_path_module, "_DESCRIPTORS", pathlib.Path(descriptors))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    save(tmp_path / "like any other" / "run", 20)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    save(tmp_path / name / "run", 5, 10, keep=1)
    save(tmp_path / name / "run", 20, keep=1)  # in the next process
    run, state = restore(tmp_path / name / "run")
    assert bits(state) == bits(state_at(20)) and run["config"] == {"seed": 0}
    assert [path.name for path in (tmp_path / name / "run" / "checkpoints").iterdir()] == ["20"]
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in tmp_path.iterdir()} == {"like any other", name}  # no link is left


def test_messages_name_the_odd_path(tmp_path):
    workdir = tmp_path / "a[1]"
    save(workdir, 10)
    as_earlier(workdir / "checkpoints" / "10", manifest=False)
    shutil.rmtree(workdir / "checkpoints" / "10" / "state" / "d")
    with pytest.raises(ValueError, match=r"a\[1\]/checkpoints/10 cannot be read") as caught:
        restore(workdir)
    assert "/proc/self/fd" not in str(caught.value) and "tensorstore_spec" not in str(caught.value)


def test_what_cannot_be_opened_costs_no_older_checkpoint(tmp_path, monkeypatch):
    """Each checkpoint is opened before an older one is deleted: here orbax gets a path in which it finds no files."""
    save(tmp_path / "run", 10, keep=1)
    workdir = (tmp_path / "run").rename(tmp_path / "a[1]")
    with monkeypatch.context() as patch:
        patch.setattr(module, "plain_path", contextlib.nullcontext)
        with pytest.raises(OSError, match=r"step 20 could not be written in .*before it \(\[10\]\) are untouched"):
            save(workdir, 20, keep=1)
    assert bits(restore(workdir)[1]) == bits(state_at(10))


def test_what_reads_otherwise_than_it_was_saved_is_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_tree", lambda metadata: {"step": jnp.zeros(())})
    with pytest.raises(OSError, match=r"step 10 could not be written .*: 5 arrays were written, but 1 can be read"):
        save(tmp_path, 10)


def test_what_was_saved_comes_back(saved):
    run, state = restore(saved)
    assert bits(state) == bits(state_at(20)) and run["data_position"] == 20
    assert run["config"] == {"seed": 0} and run["position"] == {"tally": {"loss": 0.1}}
    assert bits(restore(saved, 10)[1]) == bits(state_at(10))


def test_a_step_that_is_not_there_is_told_with_those_that_are(saved):
    """Of many, the nearest."""
    with contextlib.closing(Checkpoints(saved, read_only=True)) as checkpoints:
        with pytest.raises(FileNotFoundError, match=r"No checkpoint at step 7 in .*; it has \[10, 20\]"):
            checkpoints.existing(7)
        checkpoints._manager.all_steps = lambda: range(100, 3000, 100)
        with pytest.raises(FileNotFoundError, match=r"it has 29, the nearest of them \[500, 600, 700, 800\]\."):
            checkpoints.existing(650)


def test_the_manifest_is_what_sha256sum_reads(saved):
    folder = saved / "checkpoints" / "20"
    listed = {line.split("  ")[1] for line in (folder / MANIFEST).read_text().splitlines()[1:]}
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files - WRITTEN_LAST == listed | {MANIFEST}  # older versions of orbax write but one of the last
    subprocess.run(["sha256sum", "--quiet", "-c", MANIFEST], cwd=folder, check=True)


def test_a_flipped_bit_in_any_file_is_found_or_harmless(workdir):
    """Named with its file, and with the step that is left; the two files that orbax writes last hold nothing of the state."""
    folder, rng = workdir / "checkpoints" / "20", np.random.default_rng(0)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(files) > 8
    for path in files:
        data = bytearray(path.read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(7)
        original = path.read_bytes()
        path.write_bytes(data)
        if path.relative_to(folder).as_posix() in WRITTEN_LAST:
            assert bits(restore(workdir)[1]) == bits(state_at(20))
        else:
            with pytest.raises(ValueError, match=r"is damaged: .*To go on from step 10.*rm -r .*checkpoints/20"):
                restore(workdir)
        path.write_bytes(original)
    assert bits(restore(workdir)[1]) == bits(state_at(20))


def test_damage_is_named_and_the_advice_works(workdir):
    path = next((workdir / "checkpoints" / "20" / "state" / "d").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"is damaged: state/d/{path.name} was changed. Nothing was changed. To go on"):
        restore(workdir)
    path.unlink()
    with pytest.raises(ValueError, match=f"is damaged: state/d/{path.name} is missing"):
        restore(workdir)
    shutil.rmtree(workdir / "checkpoints" / "20")
    assert bits(restore(workdir)[1]) == bits(state_at(10))


def test_the_advice_skips_what_is_damaged_too(workdir):
    for step in (10, 20):
        next((workdir / "checkpoints" / str(step) / "state" / "d").iterdir()).unlink()
    with pytest.raises(ValueError, match=r"20 is damaged: .*To go on from step 0, as no other is known"):
        restore(workdir)


def test_a_folder_that_is_no_checkpoint(workdir):
    """One with a number for a name is refused with its name; others, and a half-written one, are left out."""
    (workdir / "checkpoints" / "notes").mkdir()
    (workdir / "checkpoints" / "notes" / "a.txt").write_text("mine")
    (workdir / "checkpoints" / "30.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    assert int(restore(workdir)[1].step) == 20
    assert (workdir / "checkpoints" / "30.orbax-checkpoint-tmp").is_dir()  # a reader cleans nothing up
    save(workdir, 25)
    assert (workdir / "checkpoints" / "notes" / "a.txt").is_file()
    (workdir / "checkpoints" / "30").mkdir()
    (workdir / "checkpoints" / "30" / "b.txt").write_text("mine")
    with pytest.raises(
        ValueError, match=r"30 is not a complete checkpoint of this library: it lacks state/ or run/.*step 25"
    ):
        restore(workdir)


def manifest_mutants(text: str):
    """Name -> a manifest as damage may leave it: cut at any line, emptied, of other lines, with flipped bits."""
    lines = text.splitlines(keepends=True)
    yield from ((f"cut after line {n}", "".join(lines[:n])) for n in range(len(lines)))
    yield from ((f"without line {n}", "".join(lines[:n] + lines[n + 1 :])) for n in range(len(lines)))
    yield "cut within the last line", text[:-30]
    yield "without its last newline", text[:-1]
    yield "a block of zeros", "\0" * len(text)
    yield "other newlines", text.replace("\n", "\r\n")
    yield "a line more", text + lines[-1]
    for place in np.random.default_rng(0).integers(len(text), size=40):
        yield f"bit {place}", text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]


def test_any_damage_to_the_manifest_is_told(workdir):
    """Also where it would pass another file for sound; and the checkpoint before it is recommended."""
    folder = workdir / "checkpoints" / "20"
    text = (folder / MANIFEST).read_text()
    for name, mutant in manifest_mutants(text):
        (folder / MANIFEST).write_bytes(mutant.encode())
        with pytest.raises(ValueError, match=rf"is damaged: .*{MANIFEST}.*To go on from step 10"):
            restore(workdir)
            pytest.fail(name)
    (folder / MANIFEST).unlink()
    with pytest.raises(ValueError, match=rf"is damaged: {MANIFEST} is missing\. .*To go on from step 10"):
        restore(workdir)


def test_a_file_that_no_line_lists_is_told(workdir):
    folder = workdir / "checkpoints" / "20"
    (folder / ".DS_Store").write_bytes(b"of a file manager")
    assert bits(restore(workdir)[1]) == bits(state_at(20))
    (folder / "state" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"20 holds files that do not belong to it: state/notes.txt.*Move them away"):
        restore(workdir)


def as_earlier(folder: pathlib.Path, manifest: bool) -> None:
    """Makes a checkpoint one of an earlier version: with a manifest of its first form, or without any."""
    run = folder / "run" / "metadata"
    content = json.loads(run.read_text())
    del content["manifest"]
    run.write_text(json.dumps(content))
    names = [line.split("  ")[1] for line in (folder / MANIFEST).read_text().splitlines()[1:]]
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / MANIFEST).write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    if not manifest:
        (folder / MANIFEST).unlink()


def test_a_manifest_of_the_first_form_is_read_with_a_warning(workdir, caplog):
    folder = workdir / "checkpoints" / "20"
    as_earlier(folder, manifest=True)
    run, state = restore(workdir)
    assert bits(state) == bits(state_at(20)) and run["position"] == {"tally": {"loss": 0.1}}
    assert [record.getMessage() for record in caplog.records if "earlier version" in record.getMessage()]
    lines = (folder / MANIFEST).read_text().splitlines(keepends=True)
    for n in range(len(lines)):
        (folder / MANIFEST).write_text("".join(lines[:n]))
        with pytest.raises(ValueError, match=rf"is damaged: {MANIFEST} (has no line of|was changed or cut).*step 10"):
            restore(workdir)


def test_a_checkpoint_of_a_version_without_manifests_is_read_with_a_warning(workdir, caplog):
    as_earlier(workdir / "checkpoints" / "20", manifest=False)
    assert int(restore(workdir)[1].step) == 20 and "read unverified" in caplog.text
    shutil.rmtree(workdir / "checkpoints" / "20" / "state" / "ocdbt.process_0")
    shutil.rmtree(workdir / "checkpoints" / "20" / "state" / "d")
    with pytest.raises(ValueError, match=r"20 cannot be read \(.*To go on from step 10"):
        restore(workdir)


def whole_state(checkpoints):
    return checkpoints.restore(state_at(0))


def one_average(checkpoints):
    part = next(iter(state_at(0).ema))
    return checkpoints.restore_part(("ema", part), state_at(0).ema[part])


@pytest.mark.parametrize("read", [whole_state, one_average])
def test_a_state_is_verified_without_asking_for_the_run(workdir, read):
    """`run` verifies too, and is called first when a run goes on; sampling may not call it."""
    path = next(path for path in (workdir / "checkpoints" / "20" / "state" / "d").iterdir())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with (
        contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints,
        pytest.raises(ValueError, match=f"is damaged: state/d/{path.name} was changed"),
    ):
        read(checkpoints)


def test_want_of_memory_is_not_taken_for_damage(workdir, monkeypatch):
    """Nobody is told to delete a sound checkpoint because this machine cannot hold it."""

    def full(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(module.ocp.CheckpointManager, "restore", full)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Out of memory"):
        restore(workdir)


def test_another_shape_is_named(saved):
    with (
        contextlib.closing(Checkpoints(saved, read_only=True)) as checkpoints,
        pytest.raises(
            ValueError, match=r"does not fit the config: params/w has shape \(8,\) .*and \(9,\) in the model"
        ),
    ):
        checkpoints.restore(state_at(0)._replace(params={"w": jnp.zeros(9), "b": jnp.zeros(3, jnp.bfloat16)}))


def test_a_failed_save_surfaces_without_waiting_and_harms_nothing(tmp_path, monkeypatch, caplog):
    """Also with keep=1, where the older checkpoint is to be deleted once the newer one is there."""
    save(tmp_path, 10, keep=1)

    def full(*_):
        raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(tmp_path, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_manifest", full)
        checkpoints.save(state_at(20), {})
        while checkpoints._manager.is_saving_in_progress():
            pass
        with pytest.raises(OSError, match=r"step 20 could not be written in .*No space left.*before it \(\[10\]\) are"):
            checkpoints.check()
    with contextlib.suppress(OSError):
        checkpoints.close()
    del checkpoints
    gc.collect()  # asyncio tells of errors that nobody asked for when it is deleted
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]  # it was told once, by us
    assert bits(restore(tmp_path)[1]) == bits(state_at(10))
    save(tmp_path, 20, keep=1)
    assert int(restore(tmp_path)[1].step) == 20 and not (tmp_path / "checkpoints" / "10").exists()


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_in_place_of_the_folder(read_only, tmp_path):
    (tmp_path / "checkpoints").write_text("mine")
    with pytest.raises(OSError, match=r"checkpoints needs to be a folder of checkpoints, got a file; move it away"):
        Checkpoints(tmp_path, read_only=read_only)
    assert (tmp_path / "checkpoints").read_text() == "mine"


@pytest.mark.parametrize(("read_only", "wanted"), [(False, "read and written"), (True, "read")])
def test_a_folder_of_another_user(read_only, wanted, tmp_path, monkeypatch):
    """Root may do everything, so the system is made to say no."""
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: bool(mode & os.W_OK) == read_only)
    with pytest.raises(
        OSError, match=f"checkpoints cannot be {wanted} by this user; change its permissions or its mount"
    ):
        Checkpoints(tmp_path, read_only=read_only)


def test_room_is_that_of_a_state_and_what_a_killed_run_left_counts_as_free(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 2_000_000, 2_000_000))
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.check_room(state_at(0, 50_000))  # 3 arrays of 0.2 MB
        with pytest.raises(
            OSError, match=r"take about 2.8 MB, and the disk of .* has 2.0 MB left. Nothing was trained"
        ):
            checkpoints.check_room(state_at(0, 250_000))
        half = tmp_path / "checkpoints" / "30.orbax-checkpoint-tmp" / "state"
        half.mkdir(parents=True)
        (half / "d").write_bytes(bytes(1_000_000))
        checkpoints.check_room(state_at(0, 250_000))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 0))
        checkpoints.check_room(state_at(0, 250_000))  # a file system that does not tell


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB, which only root can mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.getuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk: pathlib.Path):
    save(small_disk, 10)
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 20_000))
    with pytest.raises(OSError, match=r"step 20 could not be written in .*untouched; make room there"):
        save(small_disk, 20)
    assert bits(restore(small_disk)[1]) == bits(state_at(10))
    (small_disk / "filler").unlink()
    save(small_disk, 20)
    assert bits(restore(small_disk)[1]) == bits(state_at(20))


def test_a_read_only_folder(small_disk: pathlib.Path, monkeypatch):
    save(small_disk, 10)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert bits(restore(small_disk)[1]) == bits(state_at(10))
    with pytest.raises(OSError, match=r"checkpoints cannot be read and written by this user"):
        save(small_disk, 20)
    monkeypatch.setattr(os, "access", lambda *_: True)  # it became read-only since then
    with pytest.raises(OSError, match=r"step 20 could not be written|Read-only file system"):
        save(small_disk, 20)


def test_manifests(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"12")
    (tmp_path / "late").write_bytes(b"")
    write_manifest(tmp_path, frozenset({"late"}))
    (tmp_path / "late").write_bytes(b"3")
    assert find_damage(tmp_path) == []
    (tmp_path / "a" / "x").write_bytes(b"21")
    assert find_damage(tmp_path) == ["a/x was changed"]
    (tmp_path / MANIFEST).write_text("rubbish\n")
    assert find_damage(tmp_path) == [f"{MANIFEST} was changed or cut"]
