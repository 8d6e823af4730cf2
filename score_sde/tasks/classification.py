"""Training a classifier of noisy data, for classifier guidance."""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key, Shaped

from score_sde import parallel
from score_sde.data import SIZES, DataSpec
from score_sde.denoising.classifier import Classifier
from score_sde.denoising.parameterizations import Parameterization
from score_sde.objectives import CrossEntropy, Objective
from score_sde.objectives.cross_entropy import judge
from score_sde.objectives.loss_by_noise_level import noise_levels
from score_sde.sdes import SDE
from score_sde.tasks.base import Batch, Draws, Losses, Params, Task
from score_sde.tasks.network_axes import log_snr_of, tensor_axis_of


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """Trains `classifier` to predict the label of x_t at every noise level, by cross-entropy.

    Attributes:
      classifier: the model to train.
      objective: its loss at random noise levels.
      eval_levels: the number of noise levels at which held-out data are measured.
    """

    classifier: Classifier
    objective: CrossEntropy
    eval_levels: int = 9

    @classmethod
    def model(
        cls, sde: SDE, parameterization: Parameterization, network: nn.Module, objective: Objective
    ) -> Classifier:
        """Raises: ValueError for an objective other than the cross-entropy."""
        if not isinstance(objective, CrossEntropy):
            raise ValueError(
                f"task.name=classification needs objective.name=cross_entropy, got a {type(objective).__name__}; set both."
            )
        return Classifier(sde, parameterization, network)

    @classmethod
    def network_fields(cls, network: Mapping[str, Any], takes: Collection[str], spec: DataSpec) -> dict[str, Any]:
        """The section with `out_features`, the number of classes of the data.

        The label is the network's output, so it is not a condition of the network.

        Raises: ValueError for data without labels, or a network with another number of outputs.
        """
        if spec.num_classes is None:
            raise ValueError("task.name=classification needs labels; let data.train and data.eval give them.")
        name, outputs = network.get("name"), network.get("out_features")
        if "out_features" not in takes:
            raise ValueError(
                f"task.name=classification needs a network with out_features, but {name!r} has none; use encoder for "
                "images and signals, or mlp for points."
            )
        if outputs not in (None, spec.num_classes):
            raise ValueError(
                f"config.network.out_features={outputs}, but the data have {spec.num_classes} classes; leave it out to take "
                "the data's number."
            )
        none = {field: 0 for field in SIZES.values() if field in takes}
        return {**network, **none, "out_features": spec.num_classes}

    @classmethod
    def has_all_sizes(cls, network: Mapping[str, Any], takes: Collection[str]) -> bool:
        return False

    @property
    def network(self) -> nn.Module:
        return self.classifier.network

    def with_network(self, network: nn.Module) -> "Classification":
        return dataclasses.replace(self, classifier=dataclasses.replace(self.classifier, network=network))

    def forward(self, params: Params, batch: Batch) -> Any:
        return self.classifier.bind(params)(batch["x"], jnp.float32(0.5))

    def init(self, key: Key[Array, ""], batch: Batch) -> Params:
        return self.classifier.init(key, batch)

    def draw(self, key: Key[Array, ""], step: Array, batch: Batch) -> Draws:
        """The objective's draws."""
        return self.objective.draw(key, batch)

    def losses(
        self, params: Params, averages: Mapping[str, Params], batch: Batch, draws: Draws, key: Key[Array, ""]
    ) -> Losses:
        classify = self.classifier.bind(params, train=True, dropout_key=key)
        losses, scalars = self.objective.losses(classify, batch, draws)
        return Losses({"classifier": losses}, {"accuracy": scalars["accuracy"]}, {"t": scalars["t"]})

    def evaluate(self, key: Key[Array, ""], params: Params, batches: Iterable[Batch]) -> dict[str, float]:
        """Cross-entropy (nats) and accuracy at noise levels uniform in log-SNR, and their means over the levels.

        The noise of example i at each level is a function of (key, i), so checkpoints are compared
        on the same noise.
        """
        totals, count = np.zeros((2, self.eval_levels)), 0
        for batch in batches:
            judged, is_real = parallel.to_host((self._judged_at_levels(key, params, dict(batch)), batch["is_real"]))
            totals += judged[:, :, is_real].sum(2, dtype=np.float64)
            count += int(is_real.sum())
        means = totals / count
        log_snr = np.asarray(self.classifier.sde.log_snr(jnp.asarray(self._times)))
        named = {"cross_entropy": means[0].mean(), "accuracy": means[1].mean()}
        for snr, loss, accuracy in zip(log_snr, *means, strict=True):
            named |= {f"cross_entropy_at_log_snr_{snr:+.1f}": loss, f"accuracy_at_log_snr_{snr:+.1f}": accuracy}
        return named

    def tensor_axis(self, path: tuple[str, ...]) -> int | None:
        return tensor_axis_of(self.classifier.network, path)

    def describe(self, facts: Mapping[str, Shaped[np.ndarray, " b"]]) -> dict[str, Shaped[np.ndarray, " b"]]:
        """The time and the log-SNR of each example."""
        return log_snr_of(self.classifier.sde, facts["t"])

    @functools.cached_property
    def _times(self) -> Float[np.ndarray, " k"]:
        return np.asarray(noise_levels(self.classifier.sde, self.eval_levels), np.float32)

    @functools.cached_property
    def _judged_at_levels(self):
        """The compiled (key, params, batch) -> (cross-entropy, correct) [2, levels, b]."""
        sde, times = self.classifier.sde, self._times

        def judged(key, params, batch):
            classify, x0 = self.classifier.bind(params), batch["x"]
            keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(batch["index"])

            def at(level_and_time):
                level, t = level_and_time
                noise = sde.noise(jax.vmap(lambda k: jax.random.fold_in(k, level))(keys), x0.shape)
                log_probs = classify(sde.alpha(t) * x0 + sde.sigma(t) * noise, t)
                return jnp.stack(judge(log_probs, batch["condition"]["label"]))

            levels = jax.lax.map(at, (jnp.arange(len(times)), jnp.asarray(times)))
            return jnp.moveaxis(levels, 0, 1)

        return jax.jit(judged)
