"""2-D densities with exact log-probabilities. DENSITIES maps a config name to its class."""

from score_sde.data.densities.base import Density
from score_sde.data.densities.checkerboard import Checkerboard
from score_sde.data.densities.gaussian_mixture import GaussianMixture
from score_sde.data.densities.moons import Moons
from score_sde.data.densities.pinwheel import Pinwheel
from score_sde.data.densities.rings import Rings
from score_sde.data.densities.swiss_roll import SwissRoll

DENSITIES: dict[str, type[Density]] = {
    "moons": Moons,
    "checkerboard": Checkerboard,
    "rings": Rings,
    "gaussian_mixture": GaussianMixture,
    "swiss_roll": SwissRoll,
    "pinwheel": Pinwheel,
}
