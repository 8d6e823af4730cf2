"""The names of published networks' parameters, and how they become the parameters of ours. One family a file.

These functions know names and shapes. They read no files. A transformer's sizes follow from its
tensors, so its function returns fields and parameters (`Published`). A U-Net's sizes come from its
config, so its function returns a table of names (`Entry`), which `convert` applies.
"""

from score_sde.importing.diffusers_dit import diffusers_dit
from score_sde.importing.dit import dit
from score_sde.importing.jit import jit
from score_sde.importing.mapping import Entry, convert, shapes_of
from score_sde.importing.tensors import Published, Tensors
from score_sde.importing.uvit import uvit

__all__ = ["Entry", "Published", "Tensors", "convert", "diffusers_dit", "dit", "jit", "shapes_of", "uvit"]
