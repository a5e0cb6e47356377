"""The handwritten digits that the scenes are made of: scikit-learn's `load_digits`, split and augmented.

1,797 images of 8 x 8 pixels (Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, CC BY
4.0; scikit-learn ships a copy). 400 are held out: no scene for training shows one of them, every scene for evaluation
shows nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "test"]
SIZE: Final = 8
HELD_OUT: Final = 400
_COPIES: Final = 11
_SPLIT_SEED: Final = 20250
_MISSING = "the testbed draws scikit-learn's handwritten digits; install it with: pip install 'vtprune[study]'"


@dataclass(frozen=True)
class Digits:
    """images: float32 `[instance, 8, 8]` in 0 to 1; by_value: for each of the ten digits, the indices of its images."""

    images: NDArray[np.float32]
    by_value: tuple[NDArray[np.int64], ...]


@cache
def digits(split: Split) -> Digits:
    """The digits of one split; those for training are joined by slightly rotated, sheared and scaled copies.

    Raises ImportError if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(_MISSING) from error
    data = load_digits()
    images, values = (data.images / 16).astype(np.float32), data.target
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(values))
    chosen = order[:HELD_OUT] if split == "test" else order[HELD_OUT:]
    images, values = images[chosen], values[chosen]
    if split == "train":
        images, values = _augment(images), np.tile(values, 1 + _COPIES)
    return Digits(images, tuple(np.flatnonzero(values == value) for value in range(10)))


def _augment(images: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy.ndimage import affine_transform

    rng = np.random.default_rng(_SPLIT_SEED + 1)
    centre = np.full(2, (SIZE - 1) / 2)
    copies = [images]
    for _ in range(_COPIES):
        warped = np.empty_like(images)
        for index, image in enumerate(images):
            angle, shear = rng.uniform(-0.2, 0.2), rng.uniform(-0.15, 0.15)
            rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            matrix = rotation @ np.array([[1, shear], [0, 1]]) @ np.diag(1 / rng.uniform(0.9, 1.12, 2))
            offset = centre - matrix @ centre + rng.uniform(-0.4, 0.4, 2)
            warped[index] = affine_transform(image, matrix, offset, order=1)
        copies.append(np.clip(warped, 0, 1))
    return np.concatenate(copies)
