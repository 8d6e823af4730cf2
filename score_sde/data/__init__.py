"""Sources of examples, and batches that are a pure function of (seed, step).

SOURCES maps a config name to its class.
"""

from score_sde.data.arrays import ArraySource
from score_sde.data.base import Batch, DataSpec, Source
from score_sde.data.batches import EvalBatches, TrainBatches
from score_sde.data.class_rows import RowsOfClass
from score_sde.data.classes import class_number, numbered_like
from score_sde.data.densities import DENSITIES, Density
from score_sde.data.density import DensitySource
from score_sde.data.digits import DigitsSource
from score_sde.data.folder import FolderSource
from score_sde.data.network_sizes import SIZES, with_sizes
from score_sde.data.subset import HoldOut, Subset, hold_out
from score_sde.data.tfds import TFDSSource

SOURCES: dict[str, type[Source]] = {
    "tfds": TFDSSource,
    "folder": FolderSource,
    "array": ArraySource,
    "digits": DigitsSource,
    "density": DensitySource,
}
