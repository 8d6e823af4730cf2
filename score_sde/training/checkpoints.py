"""Checkpoints: the whole training state, its configuration and the data position, saved asynchronously and atomically."""

import json
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from score_sde.training.state import TrainState


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints/<step>`; the last `keep` and every `keep_every`-th stay.

    A checkpoint is complete or absent: it is written beside and renamed. Batch n of the data is a function of (seed, n), so
    the step is also the data position.
    """

    def __init__(self, workdir: pathlib.Path, keep: int = 2, keep_every: int | None = None):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self.directory = pathlib.Path(workdir).absolute() / "checkpoints"
        handlers = {"state": ocp.StandardCheckpointHandler(), "run": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def save(self, state: TrainState, config: dict[str, Any]) -> None:
        """Saves in the background; the state may be donated right after."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        run = {"config": config, "data_position": step}
        args = ocp.args.Composite(state=ocp.args.StandardSave(state._asdict()), run=ocp.args.JsonSave(run))
        self._manager.save(step, args=args)

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def config(self, step: int | None = None) -> dict[str, Any]:
        """The config that was saved at `step` (None: the newest).

        Raises: FileNotFoundError when there is none.
        """
        args = ocp.args.Composite(run=ocp.args.JsonRestore())
        return self._manager.restore(self._existing(step), args=args)["run"]["config"]

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """The state at `step` (None: the newest), with shapes and shardings like `like`.

        Raises: FileNotFoundError when there is none; ValueError when its arrays do not fit `like`.
        """
        step = self._existing(step)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
        _check_shapes(self._manager.item_metadata(step)["state"], abstract)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return TrainState(**self._manager.restore(step, args=args)["state"])

    def _existing(self, step: int | None) -> int:
        have = sorted(self._manager.all_steps())
        if (step is None and not have) or (step is not None and step not in have):
            which = "" if step is None else f" at step {step}"
            raise FileNotFoundError(f"No checkpoint{which} in {self.directory}; it has {have or 'none'}.")
        return have[-1] if step is None else step

    def wait(self) -> None:
        """Returns when what `save` began is on disk; raises what went wrong there."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the background threads."""
        self._manager.close()


def _check_shapes(saved: Any, wanted: Any) -> None:
    """Raises ValueError naming the first array that differs in presence or shape."""

    def shapes(tree):
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}

    saved, wanted = shapes(getattr(saved, "tree", saved)), shapes(wanted)
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise ValueError(
                f"The checkpoint does not fit the config: {name} has shape {saved.get(name, 'absent')} in the checkpoint "
                f"and {wanted.get(name, 'absent')} in the model; use the config saved beside it (config.json)."
            )


def config_differences(saved: dict[str, Any], current: dict[str, Any], prefix: str = "") -> list[str]:
    """The dotted fields in which two configs differ, with both values."""
    differences = []
    for name in sorted(saved.keys() | current.keys()):
        old, new = saved.get(name, "absent"), current.get(name, "absent")
        if isinstance(old, dict) and isinstance(new, dict):
            differences += config_differences(old, new, f"{prefix}{name}.")
        elif json.dumps(old) != json.dumps(new):
            differences.append(f"{prefix}{name}: {old!r} there, {new!r} here")
    return differences
