"""The peak speeds and memory sizes of accelerators, as their makers publish them.

They serve plans only. No code path is chosen by them. A device is what JAX counts as one: a GPU, or
a TPU chip. Peaks are dense, in bfloat16 with float32 sums. (NVIDIA's data sheets print twice as
much, with sparsity.)
"""

from typing import NamedTuple

from score_sde.config import closest


class Accelerator(NamedTuple):
    """One device: its name, TFLOP/s in dense bfloat16, memory in units of 10⁹ bytes, and the source of these numbers."""

    name: str
    bf16_tflops: float
    memory_gb: float
    source: str


ACCELERATORS = {
    "a100-40": Accelerator("NVIDIA A100 40 GB", 312.0, 40.0, "NVIDIA A100 data sheet"),
    "a100": Accelerator("NVIDIA A100 80 GB", 312.0, 80.0, "NVIDIA A100 data sheet"),
    "h100": Accelerator("NVIDIA H100 SXM", 989.4, 80.0, "NVIDIA H100 data sheet: 1,979 with sparsity"),
    "h200": Accelerator("NVIDIA H200 SXM", 989.4, 141.0, "NVIDIA H200 data sheet: 1,979 with sparsity"),
    "b200": Accelerator("NVIDIA B200 (HGX)", 2250.0, 180.0, "NVIDIA HGX data sheet: 36 PFLOP/s for 8, with sparsity"),
    "l4": Accelerator("NVIDIA L4", 121.0, 24.0, "NVIDIA L4 data sheet: 242 with sparsity"),
    "l40s": Accelerator("NVIDIA L40S", 362.05, 48.0, "NVIDIA L40S data sheet: 362.05, 733 with sparsity"),
    "v4": Accelerator("TPU v4", 275.0, 32.0, "cloud.google.com/tpu/docs/v4"),
    "v5e": Accelerator("TPU v5e", 197.0, 16.0, "cloud.google.com/tpu/docs/v5e"),
    "v5p": Accelerator("TPU v5p", 459.0, 95.0, "cloud.google.com/tpu/docs/v5p"),
    "v6e": Accelerator("TPU v6e (Trillium)", 918.0, 32.0, "cloud.google.com/tpu/docs/v6e"),
}


def find_accelerator(name: str) -> Accelerator:
    """The accelerator with that name.

    Raises: ValueError with the known names.
    """
    if name not in ACCELERATORS:
        known = sorted(ACCELERATORS)
        raise ValueError(
            f"--accelerator needs one of {known}, got {name!r}.{closest(name, known)} For another one give --peak_tflops "
            "and --memory_gb."
        )
    return ACCELERATORS[name]
