"""The weights of the packs in tests/golden/net, under the authors' names."""

import numpy as np

from tests.networks.published import FOLDER


def weights(name):
    """name -> array, in float32."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key.removeprefix("sd/"): file[key].astype(np.float32) for key in file.files if key.startswith("sd/")}
