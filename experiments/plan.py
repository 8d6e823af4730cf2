"""What a config costs, before renting anything: score-sde plan --config=configs/… --devices=8 --accelerator=h100

Prints parameters, FLOPs per image, bytes per device and, at an assumed utilization, images/s and the time for all steps.
It compiles for virtual CPU devices and trains nothing: [--config.mesh.fsdp=8 --config.training.batch_size=512 …].
"""

import json

from absl import flags

from .flags import config_or_run, define_config, start

CONFIG = define_config()
DEVICES = flags.DEFINE_integer(
    "devices", None, "How many accelerators; what config.mesh says if not given.", lower_bound=1
)
ACCELERATOR = flags.DEFINE_string("accelerator", "h100", "Which: h100, h200, a100, v4, v5e, v5p, v6e, …")
MFU = flags.DEFINE_float("mfu", 0.4, "Share of the peak that the model's FLOPs are assumed to reach.")
PEAK = flags.DEFINE_float("peak_tflops", None, "TFLOP/s of a device, instead of the accelerator's.", lower_bound=0)
MEMORY = flags.DEFINE_float("memory_gb", None, "GB of a device, instead of the accelerator's.", lower_bound=0)
SHAPE = flags.DEFINE_list("shape", None, "Shape of an example, as 32,32,3: plans without the data.")
NUM_CLASSES = flags.DEFINE_integer("num_classes", None, "With --shape: examples have labels.", lower_bound=1)
JSON = flags.DEFINE_bool("json", False, "Print JSON, in bytes and seconds, instead of a table.")
flags.declare_key_flag("workdir")


def main() -> None:
    import jax

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
