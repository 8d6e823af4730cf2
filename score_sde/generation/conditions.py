"""The condition of each image that is drawn, as a function of the image's index alone."""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from score_sde.data import DataSpec, EvalBatches, class_number
from score_sde.denoising.denoiser import Condition


@dataclasses.dataclass(frozen=True)
class SamplingConditions:
    """condition(first_index, number): the condition of images first_index … first_index + number − 1.

    If labels are the only condition, images get the classes in turn, or all get `label` (a number
    or a name). If there are more conditions, image i gets all its conditions from one held-out
    example, so that they agree. That is example i mod n of the n held-out examples, or of the n
    held-out examples of class `label`.

    Attributes:
      spec: the spec of the data, which names the conditions.
      label: `sampling.label` of a config. None is all classes.
      held_out: a function that returns the held-out examples. It is called only if there are more
        conditions than labels.
    Raises: ValueError, when called, for a label that is not a class or has no held-out example, or
      for held-out data without the conditions of the training data.
    """

    spec: DataSpec
    label: int | str | None
    held_out: Callable[[], EvalBatches]

    def __call__(self, first_index: int, number: int) -> Condition:
        spec, label = self.spec, self.label
        if label is not None and spec.num_classes is None:
            raise ValueError(f"sampling.label needs a model with labels as a condition, got {label!r}; set it to None.")
        number_of_class = None if label is None else class_number(label, spec, "sampling.label")
        indices = np.arange(first_index, first_index + number)
        if set(spec.conditions) <= {"label"}:
            if spec.num_classes is None:
                return {}
            labels = indices % spec.num_classes if number_of_class is None else np.full(number, number_of_class)
            return {"label": jnp.asarray(labels.astype(np.int32))}
        rows = self._rows_of_class(number_of_class)
        condition = self._examples.at(rows[indices % len(rows)])["condition"]
        return {name: jnp.asarray(condition[name]) for name in spec.conditions}

    @functools.cached_property
    def _examples(self) -> EvalBatches:
        return self.held_out()

    def _rows_of_class(self, label: int | None) -> np.ndarray:
        """The indices of the held-out examples of a class. None is all of them."""
        if label is None:
            return np.arange(len(self._examples.source))
        rows = np.flatnonzero(self._labels == label)
        if not rows.size:
            raise ValueError(
                f"sampling.label={self.label!r} needs a held-out example of this class, because an image gets all its "
                "conditions from one example; config.data.eval has none."
            )
        return rows

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        return self._examples.source.labels()
