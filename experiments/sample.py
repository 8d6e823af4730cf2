"""Samples a trained model: score-sde sample --workdir=runs/vp --num_samples=64 [--set=sampling.FIELD=VALUE …]

Writes samples.npz (x in [-1, 1], conditions, evaluations) and a picture. With --format, for any number of images: they
are written batch by batch, and the same command goes on where it was killed. Image i has noise
of its own: it is the same to the bit at one place in a batch of one size on the same devices, and to rounding at others.
"""

import pathlib
from typing import Any

from absl import flags

from .flags import CHECKPOINT, EMA, start, workdir_path

NUM_SAMPLES = flags.DEFINE_integer("num_samples", 64, "How many.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images drawn at once, over all devices.", lower_bound=1)
FIRST_INDEX = flags.DEFINE_integer("first_index", 0, "Index of the first image.", lower_bound=0)
OUTPUT = flags.DEFINE_string("output", None, "Folder to write to; WORKDIR/samples/<step> if not given.")
FORMAT = flags.DEFINE_enum(
    "format", None, ["png", "npz", "npy"], "A file per image, a file per batch, or one array; resumes after a kill."
)
DTYPE = flags.DEFINE_enum("dtype", None, ["uint8", "float32"], "With --format: uint8 (for images) if not given.")
SET = flags.DEFINE_multi_string(
    "set", [], "FIELD=VALUE in the run's config, as sampling.grid.num_steps=50; repeatable."
)
for name in ("workdir", "checkpoint", "ema"):
    flags.declare_key_flag(name)


def main() -> None:
    from score_sde.experiment import from_workdir
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
