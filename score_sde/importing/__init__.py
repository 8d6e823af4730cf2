"""The names of published networks' parameters, and how they become the parameters of ours. One family a file.

These functions know names and shapes. They read no files.
"""

from score_sde.importing.diffusers_dit import diffusers_dit
from score_sde.importing.dit import dit
from score_sde.importing.jit import jit
from score_sde.importing.tensors import Published, Tensors
from score_sde.importing.uvit import uvit

__all__ = ["Published", "Tensors", "diffusers_dit", "dit", "jit", "uvit"]
