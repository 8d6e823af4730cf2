"""Samples a trained model: score-sde sample --workdir=runs/vp --num_samples=64 [--set=sampling.FIELD=VALUE …]

The command writes a picture and samples.npz with x in [-1, 1], conditions and evaluations.

With --format it writes any number of images, batch by batch. If the command is
interrupted, run it again: it draws only the missing images.

Image i has its own noise. At one place in a batch of one size on the same devices, it is
the same to the bit. Elsewhere it is the same to rounding.
"""

import pathlib
from typing import Any

from absl import flags

from .flags import CHECKPOINT, EMA, start, workdir_path

NUM_SAMPLES = flags.DEFINE_integer("num_samples", 64, "Number of images.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images drawn at once, over all devices.", lower_bound=1)
FIRST_INDEX = flags.DEFINE_integer("first_index", 0, "Index of the first image.", lower_bound=0)
OUTPUT = flags.DEFINE_string("output", None, "Folder to write to. Default: WORKDIR/samples/<step>.")
FORMAT = flags.DEFINE_enum(
    "format",
    None,
    ["png", "npz", "npy"],
    "png writes a file for each image, npz a file for each batch, npy one array. All continue after an interruption.",
)
DTYPE = flags.DEFINE_enum(
    "dtype", None, ["uint8", "float32"], "With --format: the type of the values. Default: uint8 for images."
)
SET = flags.DEFINE_multi_string(
    "set",
    [],
    "FIELD=VALUE sets a field of the run's config, for example sampling.grid.num_steps=50. The flag may be repeated.",
)
for name in ("workdir", "checkpoint", "ema"):
    flags.declare_key_flag(name)


def main() -> None:
    from score_sde.run_config import from_workdir
    from score_sde.runs.sampling import run_sampling, stream_samples

    workdir = workdir_path()
    experiment = from_workdir(workdir, SET.value)
    which: dict[str, Any] = {
        "first_index": FIRST_INDEX.value,
        "checkpoint": CHECKPOINT.value,
        "ema": EMA.value,
        "output": pathlib.Path(OUTPUT.value) if OUTPUT.value else None,
    }
    if FORMAT.value is not None:
        which |= {"kind": FORMAT.value, "dtype": DTYPE.value}
        stream_samples(experiment, workdir, NUM_SAMPLES.value, BATCH_SIZE.value, **which)
    elif DTYPE.value is not None:
        raise ValueError("--dtype needs --format; samples.npz holds float32.")
    else:
        run_sampling(experiment, workdir, NUM_SAMPLES.value, BATCH_SIZE.value, **which)


if __name__ == "__main__":
    start(main)
