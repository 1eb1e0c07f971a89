"""Data sets of dense inputs with one label a sample, in three parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DenseDataset:
    """Inputs and their classes.

    Attributes:
        inputs: float32 ``(n, d)``, between 0 and 1.
        targets: int64 ``(n,)``, below ``n_classes``.
        n_classes: Number of classes.

    Raises:
        ValueError: If sizes, types or ranges do not fit together.

    Examples:
        >>> data = DenseDataset(torch.rand(4, 3), torch.tensor([0, 1, 1, 0]), 2)
        >>> data
        DenseDataset(4 samples, 3 features, 2 classes)
        >>> [len(targets) for _, targets in data.batches(3, shuffle_seed=0)]
        [3, 1]
    """

    inputs: Tensor
    targets: Tensor
    n_classes: int

    def __post_init__(self) -> None:
        if self.inputs.dim() != 2 or self.inputs.dtype != torch.float32:
            raise ValueError(
                f"inputs must be a float32 matrix, got {self.inputs.dtype} of shape "
                f"{tuple(self.inputs.shape)}"
            )
        if self.targets.shape != self.inputs.shape[:1] or self.targets.dtype != torch.int64:
            raise ValueError(
                f"targets must be int64 of shape {tuple(self.inputs.shape[:1])}, got "
                f"{self.targets.dtype} of shape {tuple(self.targets.shape)}"
            )
        if len(self) and not 0 <= int(self.targets.min()) <= int(self.targets.max()) < (
            self.n_classes
        ):
            raise ValueError(
                f"targets must be between 0 and n_classes - 1 = {self.n_classes - 1}, "
                f"got {int(self.targets.min())} to {int(self.targets.max())}"
            )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.targets)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self):,} samples, {self.inputs.shape[1]:,} features, "
            f"{self.n_classes:,} classes)"
        )

    def subset(self, rows: Tensor) -> DenseDataset:
        """Copy some samples into a data set of their own.

        Args:
            rows: Sample numbers, int64; any order.
        """
        return DenseDataset(self.inputs[rows], self.targets[rows], self.n_classes)

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate once over all samples.

        Args:
            batch_size: Samples in a batch; the last one may be smaller.
            shuffle_seed: Seed of the order; None keeps the order of the data set.

        Yields:
            Inputs and targets.

        Raises:
            ValueError: If ``batch_size`` is not positive.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        order = torch.arange(len(self)) if shuffle_seed is None else _order(len(self), shuffle_seed)
        for rows in order.split(batch_size) if len(self) else ():
            yield self.inputs[rows], self.targets[rows]


class Splits(NamedTuple):
    """A data set in three parts.

    Attributes:
        train: What to learn from.
        valid: What to choose hyperparameters by.
        test: What to report.
    """

    train: DenseDataset
    valid: DenseDataset
    test: DenseDataset


def split_at_random(data: DenseDataset, *, valid: int, test: int, seed: int) -> Splits:
    """Divide samples at random.

    Args:
        data: What to divide.
        valid: Number of validation samples.
        test: Number of test samples.
        seed: Seed of the choice.

    Raises:
        ValueError: If there would be no training sample.
    """
    check_sizes(valid=valid, test=test)
    if valid + test >= len(data):
        raise ValueError(
            f"valid and test must leave training samples: got {valid} and {test} of {len(data)}"
        )
    test_rows, valid_rows, train_rows = _order(len(data), seed).tensor_split([test, test + valid])
    return Splits(*(data.subset(rows) for rows in (train_rows, valid_rows, test_rows)))


def check_sizes(**sizes: int) -> None:
    """Raise ValueError unless each part has 0 samples or more.

    Args:
        **sizes: Number of samples, by the name of the part.
    """
    for name, size in sizes.items():
        if size < 0:
            raise ValueError(f"{name} must not be negative, got {size}")


def _order(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
