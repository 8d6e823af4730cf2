"""CFG++: guidance of the image, but not of the noise that is added back."""

from score_sde.denoising.estimate import Estimate
from score_sde.denoising.memory import Memory
from score_sde.guidance.contrast import NullContrast
from score_sde.guidance.scaled import Place
from score_sde.internal.pytree import pytree


@pytree
class CFGPlusPlus(NullContrast):
    """x̂0 = x̂0(∅) + scale · (x̂0(c) − x̂0(∅)) and ε̂ = ε̂(∅), where c is the condition and ∅ the null condition.

    With this pair, a step of `DDIM` is the paper's step x_s = α_s x̂0 + σ_s ε̂(∅). The pair is not
    consistent with x: α x̂0 + σ ε̂ ≠ x. So the rule is for `DDIM` and other solvers that use both
    members. Solvers that use one of them, such as DPM-Solver++, give other samples. scale is the
    paper's λ, between 0 and 1. scale = 0 is the unconditional model. scale = 1 has the image of the
    conditional model, and the noise of the unconditional model.

    Raises: ValueError as `Contrast`, and for a model without a condition.
    Source: Chung et al., arXiv 2406.08070, Algorithm 2.
    """

    scale: float = 0.6

    def combine(self, place: Place, positive: Estimate, negative: Estimate, memory: Memory | None) -> Estimate:
        return Estimate(positive.x0 + (place.scale - 1) * (positive.x0 - negative.x0), negative.eps)
