"""What a config costs, before you rent anything: score-sde plan --config=configs/… --devices=8 --accelerator=h100

The command prints parameters, FLOPs per image and bytes per device. At an assumed
utilization (--mfu) it also prints images/s and the time for all steps. It compiles for
virtual CPU devices and trains nothing. Fields of the config may be set, for example
--config.mesh.fsdp=8 --config.training.batch_size=512.

Without a config, --presets=all prints the published network sizes with their parameters and
multiply-adds. --presets=dit prints the sizes whose names start with dit.
"""

import json

from absl import flags

from .flags import config_or_run, define_config, start

CONFIG = define_config()
DEVICES = flags.DEFINE_integer(
    "devices", None, "The number of accelerators. Default: what config.mesh says.", lower_bound=1
)
ACCELERATOR = flags.DEFINE_string("accelerator", "h100", "The accelerator: h100, h200, a100, v4, v5e, v5p, v6e, …")
MFU = flags.DEFINE_float("mfu", 0.4, "Assumed utilization: the model's FLOP/s as a share of the peak.")
PEAK = flags.DEFINE_float(
    "peak_tflops", None, "Peak of a device in TFLOP/s, instead of the accelerator's.", lower_bound=0
)
MEMORY = flags.DEFINE_float("memory_gb", None, "Memory of a device in GB, instead of the accelerator's.", lower_bound=0)
SHAPE = flags.DEFINE_list("shape", None, "Shape of an example, such as 32,32,3. With it the plan needs no data.")
NUM_CLASSES = flags.DEFINE_integer(
    "num_classes", None, "With --shape: the number of classes, if examples have labels.", lower_bound=1
)
JSON = flags.DEFINE_bool("json", False, "Print JSON, in bytes and seconds, instead of a table.")
PRESETS = flags.DEFINE_string(
    "presets", None, "Print published network sizes instead of a plan: all, or the beginning of their names."
)
flags.declare_key_flag("workdir")


def main() -> None:
    import jax

    if PRESETS.value is not None:
        from score_sde.tools import presets

        jax.config.update("jax_platforms", "cpu")
        print(presets.as_table("" if PRESETS.value == "all" else PRESETS.value))
        return

    from score_sde.tools.accelerators import find_accelerator
    from score_sde.tools.plan import as_table, experiment_on, make_plan, number_of_devices

    config = config_or_run("plan", CONFIG.value).config
    devices = DEVICES.value or number_of_devices(config)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    shape = None if SHAPE.value is None else tuple(int(size) for size in SHAPE.value)
    experiment = experiment_on(config, devices, shape, NUM_CLASSES.value)
    accelerator = find_accelerator(ACCELERATOR.value)
    if PEAK.value is not None:
        accelerator = accelerator._replace(bf16_tflops=PEAK.value, source="--peak_tflops")
    if MEMORY.value is not None:
        accelerator = accelerator._replace(memory_gb=MEMORY.value)
    plan = make_plan(experiment, accelerator, MFU.value)
    print(json.dumps(plan, indent=2) if JSON.value else as_table(plan))


if __name__ == "__main__":
    start(main, required=())
