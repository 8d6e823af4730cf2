"""Editing: data to latent and back by the probability flow, paths between latents, and SDEdit."""

from score_sde.editing.interpolation import interpolate, interpolation_picture, slerp
from score_sde.editing.inversion import decode, encode, round_trip_error
from score_sde.editing.sdedit import sdedit
