"""Classifier guidance."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.guidance.base import Conditional, Guidance, Load, Observation
from score_sde.guidance.tilt import Tilt, Tilted, tilted
from score_sde.internal.pytree import as_pytree, pytree, static
from score_sde.sdes.base import Time


@pytree
class ClassifierGuidance(Tilt):
    """∇ log p(x_t) + scale · ∇ log p(label | x_t), with the gradient of a classifier of noisy data.

    scale = 0 is the model alone. With an exact classifier and an unconditional model, scale = 1 is
    the conditional model.

    A config names the run that trained the classifier (`task.name=classification`), which must have
    the same SDE. In Python, `classifier` is any function (x, t) -> log p(label | x_t) [b, classes],
    such as a bound `Classifier`.

    Attributes:
      label: the class of all images. None: `label` of the observation, or else of the model's
        condition.
      classifier: the function. None: the classifier of the run in `workdir`.
      workdir: the folder of the run that trained the classifier.
      step: the step of its checkpoint. None: the newest.
      average: the half-life of the average in thousands of images. "none": the raw parameters.
        None: the average with the shortest half-life.

    Raises: ValueError as `Tilt`, and where there is no classifier or no label.
    Source: Dhariwal and Nichol, arXiv 2105.05233, Eq. 14; Song et al., arXiv 2011.13456, Eq. 14.
    """

    label: int | Int[Array, " b"] | None = None
    classifier: Callable[..., Any] | None = None
    workdir: str | None = static(default=None)
    step: int | None = static(default=None)
    average: str | None = static(default=None)

    def __post_init__(self):
        super().__post_init__()
        if self.classifier is not None:
            object.__setattr__(self, "classifier", as_pytree(self.classifier))

    def loaded(self, load: Load) -> Guidance:
        if self.classifier is not None or self.workdir is None:
            return self
        found = load(self.workdir, self.step, self.average)
        if isinstance(found, Denoise):
            raise ValueError(
                f"ClassifierGuidance needs a run with task.name=classification, and the run in {self.workdir} trained a "
                f"{type(found).__name__}; set workdir to another run."
            )
        return dataclasses.replace(self, classifier=found)

    def wrap(self, model: Denoise, observation: Observation) -> Denoise:
        if self.classifier is None:
            raise ValueError(
                "ClassifierGuidance needs a classifier, got None; in a config set workdir to the run that trained it, in "
                "Python pass classifier=Classifier(…).bind(params) or a function (x, t) -> log p(label | x_t)."
            )
        given = model.condition if isinstance(model, Conditional) else None
        label: Any = self.label
        if label is None:
            label = {**(given or {}), **observation}.get("label")
        if label is None:
            raise ValueError(
                "ClassifierGuidance needs a label, got a model without the condition 'label'; set label to the class of all "
                "images, or give an observation with one label for each."
            )
        return Tilted(model, self, jnp.asarray(label))

    def change(
        self, model: Denoise, x: Float[Array, "b *shape"], t: Time, given: Array | None
    ) -> tuple[Estimate, Estimate]:
        classify: Any = self.classifier
        estimate = model(x, t)
        label = jnp.broadcast_to(jnp.asarray(given), x.shape[:1])

        def log_prob(x):
            found: Any = classify(x, t)
            return jnp.sum(jnp.take_along_axis(found, label[:, None], axis=1))

        gradient = jax.grad(log_prob)(x)
        return tilted(model.sde, x, t, estimate, self.scale * gradient), estimate
