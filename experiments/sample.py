"""Samples a trained model: python -m experiments.sample --workdir=runs/vp --num_samples=64 [--set=sampling.FIELD=VALUE …]

Writes samples.npz (x in [-1, 1], the images as 8 bit where they are images, conditions, evaluations) and a picture.
Image i is the same whatever the batch size.
"""

import pathlib

from absl import flags

from experiments.flags import CHECKPOINT, EMA, start, workdir_path

NUM_SAMPLES = flags.DEFINE_integer("num_samples", 64, "How many.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images drawn at once.", lower_bound=1)
FIRST_INDEX = flags.DEFINE_integer("first_index", 0, "Index of the first image.", lower_bound=0)
OUTPUT = flags.DEFINE_string("output", None, "Folder to write to; WORKDIR/samples/<step> if not given.")
SET = flags.DEFINE_multi_string(
    "set", [], "FIELD=VALUE in the run's config, as sampling.grid.num_steps=50; repeatable."
)
for name in ("workdir", "checkpoint", "ema"):
    flags.declare_key_flag(name)


def main() -> None:
    from score_sde.experiment import from_workdir
    from score_sde.runs import run_sampling

    workdir = workdir_path()
    run_sampling(
        from_workdir(workdir, SET.value),
        workdir,
        NUM_SAMPLES.value,
        BATCH_SIZE.value,
        first_index=FIRST_INDEX.value,
        checkpoint=CHECKPOINT.value,
        ema=EMA.value,
        output=pathlib.Path(OUTPUT.value) if OUTPUT.value else None,
    )


if __name__ == "__main__":
    start(main)
