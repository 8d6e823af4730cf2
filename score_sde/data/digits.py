"""The 8×8 handwritten digits that come with the package and need no download."""

import importlib.resources

import numpy as np
from jaxtyping import Integer

from score_sde.data.base import DataSpec, Examples, Source
from score_sde.data.digests import digest_of_array

_FIRST_TEST_INDEX = 1500
SPLITS = {"train": slice(0, _FIRST_TEST_INDEX), "test": slice(_FIRST_TEST_INDEX, None), "all": slice(None)}


class DigitsSource(Source):
    """1,797 grey images 8×8×1 of the digits 0–9 with 17 levels: the number, 0…16, of ink pixels in each 4×4 block.

    The split is fixed: "train" is the first 1,500 images of the UCI test file, and "test" is the
    last 297. 13 people wrote the digits. Images in the same hand seem to follow each other in the
    file. So the hands of most test digits are not in the training data.

    Args:
      split: "train", "test" or "all".
      labels: whether the digit is the "label".

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
      Learning Repository, 1998, https://archive.ics.uci.edu/dataset/80, CC BY 4.0
      (LICENSE-digits.txt).
    """

    def __init__(self, split: str = "train", *, labels: bool = True):
        if split not in SPLITS:
            raise ValueError(f"DigitsSource needs a split of {', '.join(SPLITS)}, got {split!r}.")
        with importlib.resources.files("score_sde.data").joinpath("digits.npz").open("rb") as file:
            arrays = np.load(file)
            self._images = arrays["images"][SPLITS[split]]
            self._labels = arrays["labels"][SPLITS[split]].astype(np.int32) if labels else None
        self.spec = DataSpec(
            shape=(8, 8, 1),
            levels=17,
            num_classes=10 if labels else None,
            conditions={"label": ()} if labels else {},
            class_names=tuple("0123456789") if labels else None,
        )

    def __len__(self) -> int:
        return len(self._images)

    def digest(self) -> str:
        """The digest of the images."""
        return digest_of_array(self._images)

    def gather(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        """The images at `indices`, copied."""
        batch = {"x": self._images[indices]}
        return batch if self._labels is None else {**batch, "label": self._labels[indices]}
