"""Predictor–corrector sampling, with any predictor and any corrector."""

from typing import Any

import numpy as np
from jaxtyping import Array, Bool

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step, Times


@pytree
class PredictorCorrector(Solver):
    """x_s = predictor(corrector(x_t)): the corrector runs at t, then the predictor goes from t to s.

    This is the order of the 2021 code, whose published numbers are known. Algorithms 2 and 3 of the
    paper print the other order, which would evaluate the score at the last time of the grid.

    Args:
      predictor: the solver that goes from t to s.
      corrector: the solver that runs at t, such as `Langevin`.
    Source: Song et al., arXiv 2011.13456, Algorithm 1.
    """

    predictor: Solver
    corrector: Solver

    def check(self, sde: SDE, times: Times) -> None:
        # The corrector stays at one time in each step, so a grid that goes up again is no fault for
        # the corrector. It gets the same times in decreasing order.
        self.corrector.check(sde, np.unique(times)[::-1])
        self.predictor.check(sde, times)

    def chooses_steps(self) -> bool:
        return self.corrector.chooses_steps() or self.predictor.chooses_steps()

    def raise_failures(self, failed: Bool[Array, " b"]) -> None:
        self.corrector.raise_failures(failed)
        self.predictor.raise_failures(failed)

    def init(self, x: Batch, num_steps: Count) -> Any:
        return self.corrector.init(x, num_steps), self.predictor.init(x, num_steps)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        first, second = carry
        x, first, corrections = self.corrector.step(noise.fold_in(key, 0), denoise, x, t, s, first)
        x, second, predictions = self.predictor.step(noise.fold_in(key, 1), denoise, x, t, s, second)
        return x, (first, second), corrections + predictions
