"""Restores images with a trained model: score-sde restore --workdir=RUN --task=inpaint --input=photos --mask=mask.png

The command measures each image of --input and draws images that fit the measurement. With
--input_is=measurement it takes the input itself for the measurement.

It writes a folder. For each image the folder has the measurement, the draws, their mean and
their spread. It also has a strip of all, and scores against the originals.

The run gives the steps, the solver and the guidance. For example,
--set=sampling.grid.num_steps=100 changes the steps. docs/inverse.md explains tasks and
methods.
"""

import pathlib
from typing import Any

from absl import flags

from .flags import CHECKPOINT, EMA, start, workdir_path

TASK = flags.DEFINE_string(
    "task",
    None,
    "The measurement: inpaint, colorize, superres (block means), bicubic, deblur, denoise, project, jpeg or phase.",
)
INPUT = flags.DEFINE_string("input", None, "An image, or a folder of images.")
METHOD = flags.DEFINE_string(
    "method",
    None,
    "pigdm, mmps, tmpd, ddnm, diffpir, jfps, dps, lgd, replacement, repaint, ddrm, ddnm_plus, daps, red_diff or tds. "
    "Fields stand in parentheses, such as 'dps(scale=0.5)'. Default: the method that sampling.guidance of the run's config "
    "names, or pigdm.",
)
MASK = flags.DEFINE_string("mask", None, "With --task=inpaint: an image, white where a pixel is seen.")
NOISE_STD = flags.DEFINE_float(
    "noise_std", 0.05, "Standard deviation of the measurement's noise, for pixels in [-1, 1]."
)
NUM_DRAWS = flags.DEFINE_integer("num_draws", 4, "Number of draws for each image.", lower_bound=1)
INPUT_IS = flags.DEFINE_enum("input_is", "original", ["original", "measurement"], "What --input holds.")
ORIGINAL = flags.DEFINE_string("original", None, "With --input_is=measurement: the originals, to compare with.")
RESIZE = flags.DEFINE_bool("resize", False, "Crop and resize images to the model's size.")
FACTOR = flags.DEFINE_integer(
    "factor", 4, "For superres and bicubic: how many times smaller each side becomes.", lower_bound=1
)
BLUR_STD = flags.DEFINE_float("blur_std", 1.0, "For deblur: standard deviation of the blur, in pixels.")
NUMBER = flags.DEFINE_integer("number", 100, "For project: how many numbers are measured.", lower_bound=1)
QUALITY = flags.DEFINE_float("quality", 10.0, "For jpeg: the quality, from 1 to 100.")
LPIPS = flags.DEFINE_string("lpips", None, "LPIPS weights. Default: the weights of score-sde import_lpips.")
OUTPUT = flags.DEFINE_string("output", None, "Folder to write to. Default: WORKDIR/restored/TASK_METHOD.")
SET = flags.DEFINE_multi_string("set", [], "FIELD=VALUE sets a field of the run's config. The flag may be repeated.")
for name in ("workdir", "checkpoint", "ema"):
    flags.declare_key_flag(name)


def main() -> None:
    from score_sde.run_config import from_workdir
    from score_sde.tools.restoration_tasks import TaskSettings
    from score_sde.tools.restore import run_restoration

    workdir = workdir_path()
    experiment = from_workdir(workdir, SET.value)
    paths = {"mask": MASK.value, "original": ORIGINAL.value, "lpips": LPIPS.value, "output": OUTPUT.value}
    options: dict[str, Any] = {name: pathlib.Path(path) if path else None for name, path in paths.items()}
    settings = TaskSettings(None, FACTOR.value, BLUR_STD.value, NUMBER.value, QUALITY.value)
    run_restoration(
        experiment,
        workdir,
        pathlib.Path(INPUT.value or ""),
        TASK.value or "",
        METHOD.value,
        settings=settings,
        noise_std=NOISE_STD.value,
        num_draws=NUM_DRAWS.value,
        input_is=INPUT_IS.value,
        resize=RESIZE.value,
        checkpoint=CHECKPOINT.value,
        ema=EMA.value,
        **options,
    )


if __name__ == "__main__":
    start(main, required=("workdir", "task", "input"))
