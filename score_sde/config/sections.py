"""The sections of a config. Each field has its type, its default and its check here, and nowhere else.

A field that a config leaves out has its default. Sections of the type `Member` are a name of a
catalogue with the fields of the class of that name. That class has their types and defaults.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from score_sde.config.kinds import Check, above, at_least

MEMBER = "a section with a name"
REST = "the fields that the member of the catalogue has"
Member = Annotated[Mapping[str, Any], MEMBER]
MEMBERS = "a list of sections with a name"
Members = Annotated[Sequence[Mapping[str, Any]], MEMBERS]

Schedules = Literal["constant", "cosine", "inverse_sqrt"]
Policies = Literal["stop", "skip"]
OnError = Literal["raise", "skip"]

_Steps = Annotated[int, at_least(1)]
_Every = Annotated[int, at_least(0)]
_Positive = Annotated[float, above(0)]
_NotNegative = Annotated[float, at_least(0)]
_Sizes = Annotated[
    tuple[int, ...] | None,
    Check(
        "one size for each spatial axis, as (32, 32), or None",
        lambda value: value is None or (bool(value) and min(value) >= 1),
    ),
]


def _are_half_lives(values: Sequence[float | int]) -> bool:
    return all(value > 0 for value in values) and len(set(values)) == len(values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """The augmentation of an example each time it is drawn for training.

    Attributes:
      random_flip: whether to mirror each image with probability 1/2.
      crop: the sizes of a random crop, one for each spatial axis. Held-out examples are cropped at
        the centre.
      dequantize: whether to spread each level of quantized data evenly over its bin.
    """

    random_flip: bool = False
    crop: _Sizes = None
    dequantize: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The examples of the training, and the held-out examples.

    Attributes:
      train: the source of the training set.
      eval: the source of the held-out examples.
      augment: the augmentation of examples of the training set.
      on_error: what happens with an example that cannot be used, such as a damaged file. "raise"
        ends the run with an error. "skip" replaces the example by another in training, and leaves
        it out in evaluation.
    """

    train: Member
    eval: Member
    augment: Augment
    on_error: OnError = "raise"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The factor of the learning rate at each update: a linear warm-up times a schedule.

    Attributes:
      schedule: "constant"; "cosine", down to `final_fraction` at `decay_steps`; "inverse_sqrt",
        1/√max(update/decay_steps, 1).
      warmup_steps: the number of updates until the whole rate is reached.
      decay_steps: the length of "cosine" and "inverse_sqrt". None: a cosine lasts for all of the
        training.
      final_fraction: the factor of the learning rate at the end of "cosine".
    """

    schedule: Schedules = "constant"
    warmup_steps: Annotated[int, at_least(0)] = 0
    decay_steps: _Steps | None = None
    final_fraction: Annotated[float, Check("a number from 0 to 1", lambda value: 0 <= value <= 1)] = 0.0

    def over(self, num_steps: int) -> "Schedule":
        """The schedule with a length: a cosine without `decay_steps` lasts for all of the training."""
        is_open = self.schedule == "cosine" and self.decay_steps is None
        return dataclasses.replace(self, decay_steps=num_steps) if is_open else self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The update from a gradient: clipping, then the optimizer of this name with its own fields.

    Attributes:
      name: "adam", "adamw", "radam", "lion" or "sgd".
      learning_rate: the learning rate, before the schedule.
      schedule: the factor of the learning rate at each update.
      clip_norm: the global norm to which a larger gradient is scaled. None: no clipping.
      accumulation_steps: the number of parts of a batch that are differentiated one after the
        other. The update is the same.
      own: the fields that optax gives the optimizer of this name, such as b1 and weight_decay.
    """

    name: str = "adam"
    learning_rate: _Positive = 2e-4
    schedule: Schedule = Schedule()
    clip_norm: Annotated[
        float | None,
        Check("a number > 0, or None not to clip", lambda value: value is None or value > 0),
    ] = 1.0
    accumulation_steps: _Steps = 1
    own: Annotated[Mapping[str, Any], REST] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ema:
    """Exponential moving averages of the parameters.

    Attributes:
      half_lives_kimg: the half-lives in thousands of images. Each gives one average. Commands use the
        average with the shortest half-life, unless --ema names another.
      rampup_ratio: keeps a half-life below this fraction of the images seen so far. None: no
        ramp-up.
    """

    half_lives_kimg: Annotated[
        Sequence[float | int], Check("different numbers > 0, as (500.0,), or ()", _are_half_lives)
    ] = (887.0,)
    rampup_ratio: _Positive | None = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """The devices. Batches are divided over data · fsdp, and parameters over fsdp.

    Parameters are also divided over tensor, where the network can.

    Attributes:
      num_devices: the number of devices. None: the product of the axes, or all devices.
      data: devices that hold a copy of the same parameters. None: as many as are left.
      fsdp: devices over which each large array of the state is divided.
      tensor: devices over which the features of a layer are divided.
    """

    num_devices: _Steps | None = None
    data: _Steps | None = None
    fsdp: _Steps = 1
    tensor: _Steps = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The length of the training, and what happens during it. Steps are updates.

    Attributes:
      num_steps: where training ends.
      batch_size: examples per step, over all devices.
      eval_batch_size: held-out examples per batch.
      log_every: steps between lines of metrics.jsonl.
      eval_every: steps between evaluations on held-out examples. 0: never.
      eval_levels: the number of noise levels of an evaluation.
      sample_every: steps between pictures of samples. 0: never.
      checkpoint_every: steps between checkpoints. 0: only the last step is saved.
      keep_checkpoints: the number of newest checkpoints to keep. None: all.
      keep_every: checkpoints of steps that this number divides are kept for ever. None: no such
        checkpoints.
      nonfinite: what happens where a loss or gradient is not finite: "stop" the run or "skip" the
        batch.
      max_skips: the number of batches in a row that may be skipped.
    """

    num_steps: _Steps = 100_000
    batch_size: _Steps = 128
    eval_batch_size: _Steps = 128
    log_every: _Steps = 100
    eval_every: _Every = 0
    eval_levels: _Steps = 9
    sample_every: _Every = 0
    checkpoint_every: _Every = 5000
    keep_checkpoints: _Steps | None = 2
    keep_every: _Steps | None = None
    nonfinite: Policies = "stop"
    max_skips: _Every = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How samples are drawn.

    Attributes:
      solver: the solver, which moves an image along the grid.
      grid: the times of a solve.
      num_preview: the number of samples of a picture during training.
      guidance: rules that change the output of the denoiser, the innermost first.
      label: the class of all samples, by its number or its name. None: the classes in turn.
      threshold: keeps the estimate of x0 within the range of the data. None: the estimate is not
        changed.
    """

    solver: Member
    grid: Member
    num_preview: _Steps = 16
    guidance: Members = ()
    label: Annotated[int, at_least(0)] | str | None = None
    threshold: Member | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood:
    """How log-densities are computed.

    Attributes:
      divergence: the divergence of the probability flow.
      t_min: the time at which the probability flow starts. 0: at the data.
      rtol: the relative tolerance of the solver.
      atol: the absolute tolerance of the solver.
      num_repeats: the number of draws of dequantization and probes to average.
      batch_size: examples per batch, over all devices.
    """

    divergence: Member
    t_min: _NotNegative = 1e-5
    rtol: _NotNegative = 1e-4
    atol: _Positive = 1e-4
    num_repeats: _Steps = 1
    batch_size: _Steps = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A whole config.

    Attributes:
      seed: the random seed of parameters, batches, noise and samples.
      data: the examples of the training, and the held-out examples.
      sde: how data turn into noise.
      parameterization: what the network predicts, and how it is told the noise level.
      network: the network.
      objective: the loss that training minimizes.
      optimizer: the update from a gradient.
      task: the kind of model that is trained.
      ema: averages of the parameters.
      mesh: how batches and parameters are divided over devices.
      training: the length of the training, and what happens during it.
      sampling: how samples are drawn.
      likelihood: how log-densities are computed.
      codec: encodes the training data, and decodes samples.
    """

    seed: Annotated[int, at_least(0)]
    data: Data
    sde: Member
    parameterization: Member
    network: Member
    objective: Member
    optimizer: Optimizer
    ema: Ema
    mesh: Mesh
    training: Training
    sampling: Sampling
    likelihood: Likelihood
    task: Member = dataclasses.field(default_factory=lambda: {"name": "denoising"})
    codec: Member = dataclasses.field(default_factory=lambda: {"name": "identity"})
