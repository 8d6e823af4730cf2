"""The interval of log-SNR in which a rule guides."""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool

from score_sde.sdes.base import SDE, Time


@runtime_checkable
class Limited(Protocol):
    """A rule with an interval; None is no bound."""

    @property
    def log_snr_min(self) -> float | None: ...

    @property
    def log_snr_max(self) -> float | None: ...


def check_interval(rule: Limited) -> None:
    """Raises ValueError where the interval is empty."""
    low, high = rule.log_snr_min, rule.log_snr_max
    if low is not None and high is not None and low > high:
        raise ValueError(
            f"{type(rule).__name__} needs log_snr_min <= log_snr_max, got log_snr_min={low}, log_snr_max={high}."
        )


def has_interval(rule: Limited) -> bool:
    """Whether there are times at which the rule does not guide."""
    return rule.log_snr_min is not None or rule.log_snr_max is not None


def is_inside(rule: Limited, sde: SDE, t: Time) -> Bool[Array, "..."]:
    """Whether the rule guides at t."""
    log_snr = sde.log_snr(jnp.asarray(t))
    inside = jnp.ones(log_snr.shape, bool)
    if rule.log_snr_min is not None:
        inside &= log_snr >= rule.log_snr_min
    if rule.log_snr_max is not None:
        inside &= log_snr <= rule.log_snr_max
    return inside
