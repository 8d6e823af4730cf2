"""Published checkpoints become our parameters; nothing in a file is ever executed."""

from score_sde.importers.inception import import_inception, inception_path, load_inception
from score_sde.importers.torch_archive import read_torch_archive

__all__ = ["import_inception", "inception_path", "load_inception", "read_torch_archive"]
