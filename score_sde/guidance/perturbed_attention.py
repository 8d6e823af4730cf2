"""Perturbed-attention guidance (PAG)."""

from score_sde.guidance.layer_contrast import LayerContrast
from score_sde.internal.layers import Change
from score_sde.internal.pytree import pytree


@pytree
class PerturbedAttention(LayerContrast):
    """(x̂0, ε̂) = guided + (scale − 1) · (plain − perturbed): self-attention maps of the perturbed network are the identity.

    With the identity as its map, each position attends only to itself. scale = 1 is the model
    without the rule. The paper counts from 0: its s is scale − 1. No condition is needed. One call
    of the network with twice the batch gives both answers. After classifier-free guidance in the
    list, one call with three times the batch gives all answers, as in the paper's Eq. 17.

    Raises: ValueError as `LayerContrast`, and for a layer without self-attention.
    Source: Ahn et al., arXiv 2403.17377, Eqs. 15 to 17.
    """

    @property
    def change(self) -> Change:
        return Change("identity_map", tuple(self.layers))
