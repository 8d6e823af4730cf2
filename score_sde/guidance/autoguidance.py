"""Autoguidance: a model guided by a weaker version of itself."""

import dataclasses

import jax
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.memory import Memory
from score_sde.guidance.base import Conditional, Guidance, Load, Observation, repeat_rows
from score_sde.guidance.beside import Answers, Ask, beside
from score_sde.guidance.contrast import Contrast, Pair, linear
from score_sde.guidance.scaled import Place
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import Time


@pytree
class Autoguidance(Contrast):
    """(x̂0, ε̂) = (x̂0, ε̂)_weak + scale · ((x̂0, ε̂) − (x̂0, ε̂)_weak), both under the same condition.

    scale = 1 is the model alone, and scale = 0 is the weak model. The weak model has the same SDE.
    It was trained for less time, is smaller, or is another average of the same run. No condition is
    needed.

    A config names the run of the weak model. `workdir` may be the folder of the run itself, with
    another `step` or `average`. In Python, `weak` is any denoiser. Its parameters are arguments of
    the compiled program. If both networks are equal, the network is traced once.

    Attributes:
      weak: the weak model. None: the model of the run in `workdir`.
      workdir: the folder of the run that trained the weak model.
      step: the step of its checkpoint. None: the newest.
      average: the half-life of the average in thousands of images. "none": the raw parameters.
        None: the average with the shortest half-life.

    Raises: ValueError as `Contrast`, without a weak model, or for a weak model with another SDE.
    Source: Karras et al., arXiv 2406.02507, Eq. 3.
    """

    is_product = True

    weak: Denoise | None = None
    workdir: str | None = static(default=None)
    step: int | None = static(default=None)
    average: str | None = static(default=None)

    def loaded(self, load: Load) -> Guidance:
        if self.weak is not None or self.workdir is None:
            return self
        found = load(self.workdir, self.step, self.average)
        if not isinstance(found, Denoise):
            raise ValueError(
                f"Autoguidance needs a run with task.name=denoising, and the run in {self.workdir} trained a "
                f"{type(found).__name__}; set workdir to another run."
            )
        return dataclasses.replace(self, weak=found)

    def wrap(self, model: Denoise, observation: Observation) -> Denoise:
        weak = self.weak
        if weak is None:
            raise ValueError(
                "Autoguidance needs a weak model, got None; in a config set workdir to the run that trained it, in Python pass "
                "weak=denoiser.bind(params)."
            )
        if type(weak.sde) is not type(model.sde):
            raise ValueError(
                f"Autoguidance needs a weak model of the same SDE, {type(model.sde).__name__}, got {type(weak.sde).__name__}."
            )
        if isinstance(weak, Conditional):
            if not isinstance(model, Conditional):
                raise ValueError(
                    f"Autoguidance needs a denoiser whose condition it can give to the weak model, got {type(model).__name__}; "
                    "put it first in the list of guidance."
                )
            weak = weak.with_condition(model.condition or {})
        return self.contrasted(ModelPair(model, weak))

    def combine(self, place: Place, positive: Estimate, negative: Estimate, memory: Memory | None) -> Estimate:
        return linear(positive, negative, place.scale)


@pytree
class ModelPair(Pair):
    """Two denoisers, with one call of each."""

    positive: Denoise
    negative: Denoise

    def both(self, x: Float[Array, "b *shape"], t: Time) -> tuple[Estimate, Estimate]:
        return _estimate(self.positive, x, t), _estimate(self.negative, x, t)

    def beside(self, x: Float[Array, "b *shape"], t: Time, ask: Ask) -> tuple[Answers, Estimate]:
        return beside(self.positive, x, t, ask), _estimate(self.negative, x, t)

    def repeated(self, number: int) -> "ModelPair":
        return ModelPair(repeat_rows(self.positive, number), repeat_rows(self.negative, number))

    def evaluations(self, t: Time) -> Evaluations:
        return self.positive.evaluations(t) + self.negative.evaluations(t)


@jax.jit
def _estimate(model: Denoise, x: Float[Array, "b *shape"], t: Time) -> Estimate:
    """An estimate as a separate function of the program, so that two models that differ only in arrays are traced once."""
    return model(x, t)
