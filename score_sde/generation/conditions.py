"""The condition and the observation of each drawn image, as functions of the image's index alone."""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int64

from score_sde.data import Batch, DataSpec, EvalBatches, RowsOfClass, class_number
from score_sde.denoising.denoiser import Condition
from score_sde.guidance import Observation


@dataclasses.dataclass(frozen=True)
class SamplingConditions:
    """condition(first_index, number): the condition of images first_index … first_index + number − 1.

    If labels are the only condition, images get the classes in turn, or all get `label` (a number
    or a name). If there are more conditions, image i gets all its conditions from one held-out
    example, so that they agree. That is example i mod n of the n held-out examples, or of the n
    held-out examples of class `label`. The same holds if guidance takes observations.

    Attributes:
      spec: the spec of the data, which names the conditions.
      label: `sampling.label` of a config. None is all classes.
      held_out: a function that returns the held-out examples. It is called only if there are more
        conditions than labels, or if guidance takes observations.
      takes_observation: whether a rule of the guidance takes observations.
      measure: (x, indices of the images) -> the measurement of held-out examples. It is used where
        the held-out data have no observation "y". None: the guidance needs no measurement.
    Raises: ValueError, when called, for a label that is not a class or has no held-out example, or
      for held-out data without the conditions of the training data.
    """

    spec: DataSpec
    label: int | str | None
    held_out: Callable[[], EvalBatches]
    takes_observation: bool = False
    measure: Callable[[Array, Array], Array] | None = None

    def __call__(self, first_index: int, number: int) -> Condition:
        spec, label = self.spec, self._class
        if set(spec.conditions) <= {"label"} and not self.is_observed:
            if spec.num_classes is None:
                return {}
            indices = np.arange(first_index, first_index + number)
            labels = indices % spec.num_classes if label is None else np.full(number, label)
            return {"label": jnp.asarray(labels.astype(np.int32))}
        condition = self._examples_of(first_index, number)["condition"]
        return {name: jnp.asarray(condition[name]) for name in spec.conditions}

    def observation(self, first_index: int, number: int) -> Observation:
        """The observations of these images for guidance. They come from the same held-out examples as the conditions.

        Without a rule that takes observations, or without held-out observations, it is {}.
        """
        if not self.is_observed:
            return {}
        examples = self._examples_of(first_index, number)
        observation = {name: jnp.asarray(values) for name, values in examples["observation"].items()}
        if self.measure is not None and "y" not in observation:
            indices = jnp.arange(first_index, first_index + number, dtype=jnp.uint32)
            observation["y"] = self.measure(jnp.asarray(examples["x"]), indices)
        return observation

    @functools.cached_property
    def is_observed(self) -> bool:
        """Whether a rule takes observations, and the held-out data have some or are measured."""
        if not self.takes_observation:
            return False
        return self.measure is not None or bool(self._held_out.source.spec.observations)

    @functools.cached_property
    def _class(self) -> int | None:
        """The number of the class of all images.

        Raises: ValueError for an unknown class, or a model without labels as a condition.
        """
        if self.label is not None and self.spec.num_classes is None:
            raise ValueError(
                f"sampling.label needs a model with labels as a condition, got {self.label!r}; set it to None."
            )
        return None if self.label is None else class_number(self.label, self.spec, "sampling.label")

    @functools.cached_property
    def _held_out(self) -> EvalBatches:
        return self.held_out()

    def _examples_of(self, first_index: int, number: int) -> Batch:
        """For each image, the held-out example of its condition and its observation."""
        rows = self._rows(first_index + number)
        return self._held_out.at(rows[np.arange(first_index, first_index + number) % len(rows)])

    def _rows(self, wanted: int) -> Int64[np.ndarray, " n"]:
        """The indices of the held-out examples of the class. With many examples, at least the first `wanted`."""
        if self._class is None:
            return np.arange(len(self._held_out.source))
        rows = self._rows_of_class.first(wanted)
        if not rows.size:
            raise ValueError(
                f"sampling.label={self.label!r} needs a held-out example of this class, because an image gets all its "
                "conditions from one example; config.data.eval has none."
            )
        return rows

    @functools.cached_property
    def _rows_of_class(self) -> RowsOfClass:
        return RowsOfClass(self._held_out.source, self._class or 0)
