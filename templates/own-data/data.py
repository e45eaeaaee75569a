"""The data of own-data.yaml."""

import numpy as np
from sklearn.datasets import load_digits


def load(test_images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x_train, y_train, x_test, y_test; or the first two, where there are no test images.

    Images are uint8, N x H x W or, with channels last, N x H x W x C; labels are integers from 0.
    Noise, splits, normalization and views are the spec's.
    """
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    split = len(images) - test_images
    return images[:split], digits.target[:split], images[split:], digits.target[split:]
