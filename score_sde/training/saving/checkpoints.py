"""Checkpoints: the training state, the config and the data position, saved asynchronously and atomically."""

import contextlib
import logging
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from score_sde.training.agreement import on_first_process
from score_sde.training.saving.integrity import FORM, write_manifest
from score_sde.training.saving.orbax_logging import silence_reported_errors
from score_sde.training.saving.plain_path import plain_path
from score_sde.training.saving.verification import (
    FOLDER,
    WRITTEN_LAST,
    advice,
    check_access,
    check_files,
    steps_on_disk,
)
from score_sde.training.state import TrainState

COMPRESSED, BESIDES = 0.9, 2**20  # float32 numbers compress to 0.92; the bytes of names, logs and a picture


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints/<step>`. The last `keep` and every `keep_every`-th are kept.

    A checkpoint is complete or absent. It is written to a temporary folder, opened, given a digest
    of each file, and then renamed. An older checkpoint is deleted only after that. Batch n of the
    data is a function of (seed, n), so the step is also the data position.

    Args:
      workdir: the folder of the run, with any name. orbax gets a path to it that orbax can read
        (see plain_path).
      read_only: for a process that reads while another process trains. Nothing is made, cleaned up
        or deleted.
    """

    def __init__(
        self, workdir: pathlib.Path, keep: int | None = 2, keep_every: int | None = None, read_only: bool = False
    ):
        self.directory = pathlib.Path(workdir).absolute() / FOLDER
        self._saving: int | None = None
        self._saved_shapes: dict[str, tuple[int, ...]] = {}
        self._sound: set[int] = set()
        # Folders are made before the background threads start. A thread would wait for minutes for a
        # folder that cannot be made.
        asynchronous = ocp.AsyncOptions(
            post_finalization_callback=self._complete, create_directories_asynchronously=False
        )
        writing = {
            "max_to_keep": keep,
            "keep_period": keep_every,
            "cleanup_tmp_directories": True,
            "async_options": asynchronous,
        }
        reading = {"read_only": True, "save_interval_steps": 0, "create": False}
        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=True, **(reading if read_only else writing))
        handlers = {"state": ocp.StandardCheckpointHandler(), "run": ocp.JsonCheckpointHandler()}
        if not read_only:
            self.directory.parent.mkdir(parents=True, exist_ok=True)
        check_access(self.directory, read_only)
        silence_reported_errors()
        with contextlib.ExitStack() as stack:
            self._plain = stack.enter_context(plain_path(self.directory.parent)) / FOLDER
            with _silenced("Given directory is read only") if read_only else contextlib.nullcontext():
                self._manager = ocp.CheckpointManager(self._plain, options=options, item_handlers=handlers)
            stack.callback(self._manager.close)
            self._resources = stack.pop_all()

    def save(self, state: TrainState, config: dict[str, Any], position: dict[str, Any] | None = None) -> None:
        """Saves in the background. The caller may donate the state right after the call.

        Args:
          position: further JSON values that a resumed run needs to continue as if it had never
            stopped.
        Raises: OSError where this save or the save before could not be written.
        """
        self.wait()
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        run = {"config": config, "data_position": step, "position": position or {}, "manifest": FORM}
        args = ocp.args.Composite(state=ocp.args.StandardSave(state._asdict()), run=ocp.args.JsonSave(run))
        self._saving, self._saved_shapes = step, shapes_of(state._asdict())
        try:
            self._manager.save(step, args=args, force=True)
        except Exception as error:
            self._fail(error)

    def check(self) -> None:
        """Raises OSError if a background save has failed. It does not wait for a save that is still running."""
        if not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Returns when the save is on disk.

        Raises: OSError where the save could not be written.
        """
        if self._saving is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._fail(error)
        self._saving = None

    def close(self) -> None:
        """Waits for the save, and ends the background threads."""
        try:
            self.wait()
        finally:
            self._resources.close()

    def check_room(self, like: TrainState) -> None:
        """Raises OSError where the disk has no room for a checkpoint of a state like `like`, if the disk tells its size."""
        arrays = sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(like))
        needed = COMPRESSED * arrays + BESIDES
        left_half_written = self.directory.glob("*.orbax-checkpoint-tmp*/**/*")  # orbax is deleting these files
        freed = sum(path.stat().st_size for path in left_half_written if path.is_file())
        disk = shutil.disk_usage(self.directory)
        if disk.total and disk.free + freed < needed:  # some network file systems report 0 bytes free of 0
            raise OSError(
                f"A checkpoint and its logs take about {needed / 1e6:,.1f} MB, and the disk of {self.directory} has "
                f"{disk.free / 1e6:,.1f} MB left. Nothing was trained; make room there, or choose another --workdir."
            )

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def run(self, step: int | None = None) -> dict[str, Any]:
        """The "config", "data_position" and "position" saved at `step`, and "manifest", the form of the manifest.

        `step` = None is the newest checkpoint.

        Raises: FileNotFoundError when there is none. ValueError when it is damaged.
        """
        step = self.existing(step)
        self._verify(step)
        with self._reading(step):
            return self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """The state at `step` (None: the newest), with shapes and shardings like `like`.

        Raises: FileNotFoundError when there is none. ValueError when its arrays do not fit `like`,
          or when it is damaged.
        """
        step = self.existing(step)
        self._verify(step)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
        _check_shapes(self.shapes(step), shapes_of(abstract))
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        with self._reading(step):
            return TrainState(**self._manager.restore(step, args=args)["state"])

    def restore_part(self, part: tuple[str, ...], like: Any, step: int | None = None) -> Any:
        """The arrays of the saved state below the names `part`, such as ("ema", "500").

        Their shapes and shardings are like `like`.

        Raises: FileNotFoundError when there is no checkpoint. ValueError when it is damaged.
        """
        step = self.existing(step)
        self._verify(step)
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        for name in reversed(part):
            wanted = {name: wanted}
        how = ocp.checkpoint_utils.construct_restore_args(wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=how, partial_restore=True)
        with self._reading(step), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            found = reader.restore(self._plain / str(step) / "state", args=args)
        for name in part:
            found = found[name]
        return found

    def averages(self, step: int | None = None) -> set[str]:
        """The names of the averages in the state saved at `step` (None: the newest)."""
        return {name.split("/")[1] for name in self.shapes(step) if name.startswith("ema/")}

    def shapes(self, step: int | None = None) -> dict[str, tuple[int, ...]]:
        """The shape of each array of the state saved at `step` (None: the newest), by its names joined with "/"."""
        step = self.existing(step)
        with self._reading(step):
            return shapes_of(_tree(self._manager.item_metadata(step)["state"]))

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """A context that turns the errors of a damaged file into ValueError with advice.

        A lack of memory stays as it is, because it says nothing about the files.
        """
        try:
            yield
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:
            raise ValueError(advice(self.directory, step, f"cannot be read ({self._told(error)})")) from error

    def existing(self, step: int | None) -> int:
        """`step`, or the newest step for None.

        Raises: FileNotFoundError when there is none.
        """
        have = sorted(self._manager.all_steps())
        if (step is None and not have) or (step is not None and step not in have):
            which = "" if step is None else f" at step {step}"
            raise FileNotFoundError(f"No checkpoint{which} in {self.directory}; it has {_told(have, step)}.")
        return have[-1] if step is None else step

    def _complete(self) -> None:
        """Opens the written files, and writes the manifest.

        Orbax calls it on the first process when all files are written. At that time the checkpoint
        has not got its name yet, and no older checkpoint has been deleted. Opening costs about 0.6
        ms per array, in the background.
        """
        folders = [*self._plain.glob(f"{self._saving}.orbax-checkpoint-tmp*"), self._plain / str(self._saving)]
        folder = next(folder for folder in folders if folder.is_dir())
        with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
            found = shapes_of(_tree(handler.metadata(self._manager.directory / folder.name / "state")))
        if found != self._saved_shapes:
            raise OSError(
                f"{len(self._saved_shapes)} arrays were written, but {len(found)} can be read, or their shapes differ"
            )
        write_manifest(folder, WRITTEN_LAST)

    def _verify(self, step: int) -> None:
        """Raises ValueError unless every file of the checkpoint is as it was written."""
        if step not in self._sound:
            on_first_process(lambda: check_files(self.directory, step))
            self._sound.add(step)

    def _told(self, error: BaseException) -> str:
        """The useful part of an orbax error, with the path that the user knows."""
        text = (str(error) or type(error).__name__).splitlines()[0]
        text = re.split(r" \[(?:tensorstore_spec|os_error_code)=", text)[0]
        return f"{text[:500].rstrip('.')}.".replace(str(self._plain), str(self.directory))

    def _fail(self, error: Exception) -> None:
        step, self._saving = self._saving, None
        raise OSError(
            f"The checkpoint of step {step} could not be written in {self.directory}: {self._told(error)} The checkpoints "
            f"before it ({steps_on_disk(self.directory.parent) or 'none'}) are untouched; make room there or let it be "
            "written, and run it again."
        ) from error


def _told(have: list[int], step: int | None, most: int = 10) -> str:
    """The existing steps. If there are many, their number and the nearest ones."""
    if step is None or len(have) <= most:
        return str(have or "none")
    return f"{len(have)}, the nearest of them {sorted(sorted(have, key=lambda other: abs(other - step))[:4])}"


class Unsaved:
    """In place of the checkpoints of a run that has no folder: there is none, and nothing is saved."""

    def latest(self) -> None:
        """There is no checkpoint."""

    def save(self, state: TrainState, config: dict[str, Any], position: dict[str, Any] | None = None) -> None:
        """Saves nothing."""

    def check(self) -> None:
        """Nothing can have failed."""

    def check_room(self, like: TrainState) -> None:
        """Nothing needs room."""


@contextlib.contextmanager
def _silenced(text: str) -> Iterator[None]:
    """A context that drops messages of absl's logger, to which orbax writes, if they begin with `text`."""

    def other(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(text)

    logger = logging.getLogger("absl")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def _tree(metadata: Any) -> Any:
    """Orbax's description of a saved tree, as a tree."""
    return getattr(metadata, "tree", metadata)


def shapes_of(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each array of a pytree, by its names joined with "/"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _check_shapes(saved: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
    """Raises ValueError with the first array that is missing, is not expected, or has another shape."""
    for differ in misfits(saved, wanted)[:1]:
        raise ValueError(
            f"The checkpoint does not fit the config: {differ}; use the config saved beside it (config.json)."
        )


def misfits(saved: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """A text for each array that is missing, is not expected, or has another shape."""
    return [
        f"{name} has shape {saved.get(name, 'absent')} in the checkpoint and {wanted.get(name, 'absent')} in the model"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]
