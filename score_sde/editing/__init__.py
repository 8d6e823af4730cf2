"""Editing: data to its latent by the probability flow and back, paths between latents, SDEdit."""

from score_sde.editing.interpolation import interpolate, interpolation_picture, slerp
from score_sde.editing.inversion import decode, encode, round_trip_error
from score_sde.editing.sdedit import sdedit
