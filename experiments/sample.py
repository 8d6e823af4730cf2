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
    from score_sde.trained import load

    from .results import run_sampling, run_streaming

    if DTYPE.value is not None and FORMAT.value is None:
        raise ValueError("--dtype needs --format; samples.npz holds float32.")
    trained = load(workdir_path(), CHECKPOINT.value, EMA.value, SET.value)
    output = pathlib.Path(OUTPUT.value) if OUTPUT.value else None
    which: dict[str, Any] = {"first_index": FIRST_INDEX.value, "output": output}
    if FORMAT.value is None:
        run_sampling(trained, NUM_SAMPLES.value, BATCH_SIZE.value, **which)
    else:
        which |= {"kind": FORMAT.value, "dtype": DTYPE.value, "ema": EMA.value}
        run_streaming(trained, NUM_SAMPLES.value, BATCH_SIZE.value, **which)


if __name__ == "__main__":
    start(main)
