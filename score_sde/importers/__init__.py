"""Importers: published checkpoints become parameters of this library. Nothing in a file is ever executed."""

from score_sde.importers.dinov2 import dinov2_path, import_dinov2, load_dinov2
from score_sde.importers.inception import import_inception, inception_path, load_inception
from score_sde.importers.lpips import import_lpips, load_lpips, lpips_path
from score_sde.importers.safetensors import read_safetensors
from score_sde.importers.torch_archive import read_torch_archive
