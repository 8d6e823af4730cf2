"""Skip-layer guidance (SLG), which is spatio-temporal skip guidance (STG) for video."""

from score_sde.guidance.layer_contrast import LayerContrast
from score_sde.internal.layers import Change
from score_sde.internal.pytree import pytree


@pytree
class SkipLayer(LayerContrast):
    """(x̂0, ε̂) = guided + (scale − 1) · (plain − skipping), where the skipping network leaves out `layers`.

    A layer that is left out returns its first input. So a layer needs an output in the shape of its
    input, as blocks of transformers and attention blocks have. scale = 1 is the model without the
    rule. The papers count from 0: their scale is our scale − 1. No condition is needed. One call of
    the network gives all answers, as for `PerturbedAttention`.

    Raises: ValueError as `LayerContrast`, and for a layer whose output has another shape than its
      input.
    Source: Hyung et al., arXiv 2411.18664, Eq. 7; for images: the skip-layer guidance of Stable
      Diffusion 3.5.
    """

    @property
    def change(self) -> Change:
        return Change("skip", tuple(self.layers))
