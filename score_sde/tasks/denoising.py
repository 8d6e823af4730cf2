"""Training a denoiser by score matching."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Key, Shaped

from score_sde.denoising.denoiser import Denoiser, Uncertainty
from score_sde.denoising.parameterizations import Parameterization
from score_sde.objectives import CrossEntropy, Objective
from score_sde.objectives.loss_by_noise_level import NoiseLevelLoss, noise_levels
from score_sde.sdes import SDE
from score_sde.tasks.base import Batch, Draws, Losses, Params, Task
from score_sde.tasks.conditions import check_rates, draw_keep, drop, dropped_names
from score_sde.tasks.network_axes import log_snr_of, tensor_axis_of

_KEEP = 1  # folded into the key for the keep masks; the objective uses the key itself


@dataclasses.dataclass(frozen=True)
class Denoising(Task):
    """Trains `denoiser` on `objective`.

    Attributes:
      denoiser: the model to train.
      objective: its loss at random noise levels.
      eval_levels: the number of noise levels at which held-out data are measured.
      condition_dropout: the probability that `network.null(condition)` replaces an example's
        conditions. One number drops all conditions of an example together, as classifier-free
        guidance needs. A mapping from name to rate drops each condition independently. A
        mask or a length is dropped with its sequence.
    """

    denoiser: Denoiser
    objective: Objective
    eval_levels: int = 9
    condition_dropout: float | Mapping[str, float] = 0.0

    @classmethod
    def model(cls, sde: SDE, parameterization: Parameterization, network: nn.Module, objective: Objective) -> Denoiser:
        """Raises ValueError for an objective that does not train a denoiser."""
        if isinstance(objective, CrossEntropy):
            raise ValueError(
                "objective.name=cross_entropy trains a classifier; set task.name=classification too, or choose another "
                "objective."
            )
        learned = getattr(objective, "learned_uncertainty", False)
        make = getattr(network, "make_uncertainty", Uncertainty)  # a network may bring its own
        return Denoiser(sde, parameterization, network, make() if learned else None)

    @property
    def network(self) -> nn.Module:
        return self.denoiser.network

    def with_network(self, network: nn.Module) -> "Denoising":
        return dataclasses.replace(self, denoiser=dataclasses.replace(self.denoiser, network=network))

    def forward(self, params: Params, batch: Batch) -> Any:
        return self.denoiser.bind(params, batch["condition"])(batch["x"], jnp.float32(0.5))

    def init(self, key: Key[Array, ""], batch: Batch) -> Params:
        """Raises ValueError for a rate of `condition_dropout` without a condition in the batch, or not in [0, 1)."""
        check_rates(self.condition_dropout, dropped_names(batch["condition"]))
        return self.denoiser.init(key, batch, batch["condition"])

    def draw(self, key: Key[Array, ""], step: Array, batch: Batch) -> Draws:
        """The draws of the objective, and for each condition whether each example keeps it."""
        keep = {}
        if self.condition_dropout:
            keep = draw_keep(jax.random.fold_in(key, _KEEP), self.condition_dropout, batch["condition"])
        return {"objective": self.objective.draw(key, batch), "keep": keep}

    def losses(
        self, params: Params, averages: Mapping[str, Params], batch: Batch, draws: Draws, key: Key[Array, ""]
    ) -> Losses:
        condition = batch["condition"]
        if draws["keep"]:
            condition = drop(condition, draws["keep"], self.denoiser.network.null)
        denoise = self.denoiser.bind(params, condition, train=True, dropout_key=key)
        losses, scalars = self.objective.losses(denoise, batch, draws["objective"])
        facts = {name: scalars[name] for name in scalars if name == "t"}
        return Losses({"denoiser": losses}, {name: v for name, v in scalars.items() if name not in facts}, facts)

    def evaluate(self, key: Key[Array, ""], params: Params, batches: Iterable[Batch]) -> dict[str, float]:
        """The mean of ‖ε̂ − ε‖²/d at noise levels uniform in log-SNR, and over all of them."""
        curve = self.noise_level_loss(key, params, batches)
        levels = {f"eps_error_at_log_snr_{snr:+.1f}": v for snr, v in zip(curve.log_snr, curve.mean, strict=True)}
        return {"eps_error": curve.mean.mean(), **levels}

    @functools.cached_property
    def noise_level_loss(self) -> NoiseLevelLoss:
        """Measures the loss by noise level; compiled once."""
        return NoiseLevelLoss(self.denoiser, noise_levels(self.denoiser.sde, self.eval_levels))

    def tensor_axis(self, path: tuple[str, ...]) -> int | None:
        return tensor_axis_of(self.denoiser.network, path)

    def describe(self, facts: Mapping[str, Shaped[np.ndarray, " b"]]) -> dict[str, Shaped[np.ndarray, " b"]]:
        """The time and the log-SNR of each example."""
        return log_snr_of(self.denoiser.sde, facts["t"]) if "t" in facts else {}
