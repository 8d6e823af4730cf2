"""Likelihood: the log-density by the probability flow, and bits/dim of quantized data."""

from score_sde.likelihood.bits import BitsPerDim, ExampleBits, bits_per_dim, dequantize, example_bits, summarize
from score_sde.likelihood.density import LogDensity, LogProb
from score_sde.likelihood.divergences import Divergence, ExactTrace, GivenProbes, Hutchinson

DIVERGENCES = {"exact": ExactTrace, "hutchinson": Hutchinson}
