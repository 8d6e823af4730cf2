"""One program for all SDEs: `Chosen(members, index)` is the SDE with that index, which is a number in the program."""

import jax
import jax.numpy as jnp

from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE
from tests.conformance import SDES

FORWARDED = (
    "log_alpha",
    "sigma",
    "alpha",
    "log_snr",
    "time_of_log_snr",
    "alpha_and_derivative",
    "sigma_and_derivative",
    "drift",
    "diffusion",
    "transition",
    "prior_std",
)


@pytree
class Chosen(SDE):
    members: tuple
    index: int

    @property
    def t_max(self):
        latest = [float(member.t_max) for member in SDES.values()]
        return latest[self.index] if isinstance(self.index, int) else jnp.asarray(latest)[self.index]

    def log_alpha(self, t):
        raise NotImplementedError  # replaced below, as the others

    def sigma(self, t):
        raise NotImplementedError


def _forward(name):
    def method(self, *times):
        if isinstance(self.index, int):  # outside of a program
            return getattr(self.members[self.index], name)(*times)
        times = [jnp.asarray(t, jnp.result_type(float)) for t in times]
        branches = [lambda *times, m=m: _strong(getattr(m, name)(*times)) for m in self.members]
        return jax.lax.switch(self.index, branches, *times)

    return method


def _strong(tree):
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, jnp.result_type(float)), tree)


for _name in FORWARDED:
    setattr(Chosen, _name, _forward(_name))


def chosen(name):
    return Chosen(tuple(SDES.values()), list(SDES).index(name))
