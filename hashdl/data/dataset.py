"""Sparse multi-label data sets and the batches that networks eat."""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hashdl.data.errors import DataError
from hashdl.files import atomic_path
from hashdl.profiling import part

_FORMAT = "hashdl.SparseDataset/1"
_TENSORS = ("indptr", "indices", "values", "label_indptr", "label_indices")
_SIZES = ("n_features", "n_labels")
_NAMES = ("label_names", "sample_names")


@dataclass(frozen=True, eq=False)
class Batch:
    """Some samples, in the layout of ``nn.EmbeddingBag(mode="sum")``.

    Attributes:
        indices: Features of all samples one after the other, int64 ``(nnz,)``.
        offsets: Where each sample begins in ``indices``, int64 ``(B,)``.
        weights: Values of the features (``per_sample_weights``), float32 ``(nnz,)``, or None when
            they are all 1.
        targets: Labels: int64 ``(B,)`` from a single-label data set, else int64 ``(B, M)`` padded
            with -1, M being the most labels that a sample of this batch has, and at least 1.

    Examples:
        >>> bag = torch.nn.EmbeddingBag(5, 3, mode="sum")
        >>> batch = Batch(torch.tensor([0, 4, 2]), torch.tensor([0, 2]), None, torch.tensor([1, 0]))
        >>> bag(batch.indices, batch.offsets, batch.weights).shape
        torch.Size([2, 3])
    """

    indices: Tensor
    offsets: Tensor
    weights: Tensor | None
    targets: Tensor

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.offsets)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch on ``device``.

        Args:
            device: Where to.
            non_blocking: As in ``Tensor.to``.

        Returns:
            The same batch there.
        """

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return Batch(
            move(self.indices),
            move(self.offsets),
            None if self.weights is None else move(self.weights),
            move(self.targets),
        )


@dataclass(frozen=True, eq=False)
class SparseDataset:
    """Samples with sparse features and one or more labels each, both as CSR.

    Attributes:
        indptr: Features of sample i are ``indices[indptr[i]:indptr[i + 1]]``; int64 ``(n + 1,)``.
        indices: Feature numbers, int32 ``(nnz,)``.
        values: Feature values, float32 ``(nnz,)``; None when they are all 1.
        label_indptr: As ``indptr``, for the labels; int64 ``(n + 1,)``.
        label_indices: Label numbers, int32.
        n_features: Feature numbers are below this.
        n_labels: Label numbers are below this.
        label_names: What each label is called.
        sample_names: What each sample is called.

    Raises:
        ValueError: If sizes, types or ranges do not fit together.

    Examples:
        >>> data = SparseDataset(
        ...     indptr=torch.tensor([0, 2, 3]),
        ...     indices=torch.tensor([0, 4, 2], dtype=torch.int32),
        ...     values=None,
        ...     label_indptr=torch.tensor([0, 1, 2]),
        ...     label_indices=torch.tensor([1, 0], dtype=torch.int32),
        ...     n_features=5,
        ...     n_labels=2,
        ... )
        >>> data
        SparseDataset(2 samples, 5 features, 2 labels, single-label)
        >>> data.batch(torch.tensor([1])).indices
        tensor([2])
    """

    indptr: Tensor
    indices: Tensor
    values: Tensor | None
    label_indptr: Tensor
    label_indices: Tensor
    n_features: int
    n_labels: int
    label_names: Sequence[str] | None = None
    sample_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        _check_csr("indptr", self.indptr, "indices", self.indices, "n_features", self.n_features)
        _check_csr(
            "label_indptr",
            self.label_indptr,
            "label_indices",
            self.label_indices,
            "n_labels",
            self.n_labels,
        )
        if len(self.label_indptr) != len(self.indptr):
            raise ValueError(
                f"label_indptr has {len(self.label_indptr)} entries, indptr has {len(self.indptr)}"
            )
        if self.values is not None:
            _check_vector("values", self.values, torch.float32)
            _check_length("values", len(self.values), "indices", len(self.indices))
        if self.label_names is not None:
            _check_length("label_names", len(self.label_names), "n_labels", self.n_labels)
        if self.sample_names is not None:
            _check_length("sample_names", len(self.sample_names), "samples", len(self))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.indptr) - 1

    def __repr__(self) -> str:
        kind = "single-label" if self.single_label else "multi-label"
        return (
            f"{type(self).__name__}({len(self):,} samples, {self.n_features:,} features, "
            f"{self.n_labels:,} labels, {kind})"
        )

    @cached_property
    def single_label(self) -> bool:
        """Whether every sample has exactly one label."""
        return bool((self.label_indptr.diff() == 1).all())

    def batch(self, rows: Tensor) -> Batch:
        """Gather samples.

        Args:
            rows: Sample numbers, an integer vector; any order, repetitions allowed.

        Returns:
            The samples in that order.

        Raises:
            IndexError: If a sample number is out of range.
        """
        with part("data"):
            rows = self._checked_rows(rows)
            positions, offsets = _gather_csr(self.indptr, rows)
            return Batch(
                indices=self.indices[positions].long(),
                offsets=offsets[:-1],
                weights=None if self.values is None else self.values[positions],
                targets=self._targets(rows),
            )

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None, drop_last: bool = False
    ) -> Iterator[Batch]:
        """Iterate once over all samples.

        Args:
            batch_size: Samples in a batch.
            shuffle_seed: Seed of the order (use the epoch's number, for one); None keeps the order
                of the data set.
            drop_last: Whether to leave out a smaller last batch.

        Yields:
            Batches that together hold each sample once.

        Raises:
            ValueError: If ``batch_size`` is not positive.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        order = torch.arange(len(self)) if shuffle_seed is None else self._shuffled(shuffle_seed)
        for rows in torch.split(order, batch_size):
            if len(rows) == batch_size or (len(rows) and not drop_last):
                yield self.batch(rows)

    def subset(self, rows: Tensor) -> SparseDataset:
        """Copy some samples into a data set of their own.

        Args:
            rows: Sample numbers, as in `batch`.

        Returns:
            These samples, with the same features and labels to choose from.

        Raises:
            IndexError: If a sample number is out of range.
        """
        rows = self._checked_rows(rows)
        positions, indptr = _gather_csr(self.indptr, rows)
        label_positions, label_indptr = _gather_csr(self.label_indptr, rows)
        names = self.sample_names
        return SparseDataset(
            indptr=indptr,
            indices=self.indices[positions],
            values=None if self.values is None else self.values[positions],
            label_indptr=label_indptr,
            label_indices=self.label_indices[label_positions],
            n_features=self.n_features,
            n_labels=self.n_labels,
            label_names=self.label_names,
            sample_names=None if names is None else [names[row] for row in rows.tolist()],
        )

    def split(self, fraction: float, seed: int) -> tuple[SparseDataset, SparseDataset]:
        """Divide the samples at random.

        Args:
            fraction: Share of the samples to hold out, between 0 and 1.
            seed: Seed of the choice.

        Returns:
            The samples to train on and the held-out ones, each in their original order.

        Raises:
            ValueError: If ``fraction`` is not between 0 and 1.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
        n_held_out = math.floor(fraction * len(self) + 0.5)
        held_out, train = self._shuffled(seed).tensor_split([n_held_out])
        return self.subset(train.sort().values), self.subset(held_out.sort().values)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the data set to a file; an interrupted write leaves an older file as it was.

        Args:
            path: The file. Its folder is made when missing.
        """
        state: dict[str, Any] = {"format": _FORMAT}
        state.update({name: getattr(self, name) for name in _TENSORS + _SIZES})
        state.update({name: _pack_names(getattr(self, name)) for name in _NAMES})
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SparseDataset:
        """Read what `save` wrote. Runs no code from the file.

        Args:
            path: The file.

        Returns:
            The data set.

        Raises:
            DataError: If the file is not one that `save` wrote.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise DataError(path, f"not a saved data set ({error})") from error
        if not isinstance(state, dict) or state.pop("format", None) != _FORMAT:
            raise DataError(path, f"not a saved data set of format {_FORMAT}")
        try:
            state.update({name: _unpack_names(state[name]) for name in _NAMES})
            return cls(**state)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(path, str(error)) from error

    def _targets(self, rows: Tensor) -> Tensor:
        """Labels of ``rows`` as `Batch.targets` wants them."""
        positions, offsets = _gather_csr(self.label_indptr, rows)
        labels = self.label_indices[positions].long()
        if self.single_label:
            return labels
        counts = offsets.diff()
        width = max(1, int(counts.max())) if len(rows) else 1
        targets = torch.full((len(rows), width), -1)
        targets[torch.arange(width) < counts[:, None]] = labels
        return targets

    def _checked_rows(self, rows: Tensor) -> Tensor:
        """Return ``rows`` as int64; negative ones would otherwise gather nonsense silently."""
        if rows.dim() != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
            raise IndexError(
                f"rows must be a vector of integers, got {rows.dtype} of shape {tuple(rows.shape)}"
            )
        rows = rows.long()
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(self)):
            raise IndexError(
                f"rows must be between 0 and {len(self) - 1}, "
                f"got {int(rows.min())} to {int(rows.max())}"
            )
        return rows

    def _shuffled(self, seed: int) -> Tensor:
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))


def _pack_names(names: Sequence[str] | None) -> Tensor | None:
    """Store names as one tensor of JSON text: a million pickled strings take seconds to load."""
    if names is None:
        return None
    text = bytearray(json.dumps(list(names)).encode("ascii"))
    return torch.frombuffer(text, dtype=torch.uint8)


def _unpack_names(text: Tensor | None) -> list[str] | None:
    return None if text is None else list(json.loads(text.numpy().tobytes()))


def _gather_csr(indptr: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the entries of ``rows`` one after the other, and their new ``indptr``."""
    starts = indptr[rows]
    counts = indptr[rows + 1] - starts
    offsets = torch.zeros(len(rows) + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=offsets[1:])
    shifts = torch.repeat_interleave(starts - offsets[:-1], counts)
    return shifts.add_(torch.arange(len(shifts))), offsets


def _check_csr(
    indptr_name: str, indptr: Tensor, indices_name: str, indices: Tensor, size_name: str, size: int
) -> None:
    """Raise ValueError unless the two make a CSR matrix with ``size`` columns."""
    _check_vector(indptr_name, indptr, torch.int64)
    _check_vector(indices_name, indices, torch.int32)
    if size < 0:
        raise ValueError(f"{size_name} must not be negative, got {size}")
    if len(indptr) == 0 or int(indptr[0]) != 0:
        raise ValueError(f"{indptr_name} must begin with 0")
    if bool((indptr.diff() < 0).any()):
        raise ValueError(f"{indptr_name} must not decrease")
    if int(indptr[-1]) != len(indices):
        raise ValueError(
            f"{indptr_name} ends with {int(indptr[-1])}, but {indices_name} has {len(indices)}"
        )
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= size):
        raise ValueError(
            f"{indices_name} must be between 0 and {size_name} - 1 = {size - 1}, "
            f"got {int(indices.min())} to {int(indices.max())}"
        )


def _check_vector(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dim() != 1 or tensor.dtype != dtype:
        raise ValueError(
            f"{name} must be a vector of {dtype}, got {tensor.dtype} of shape {tuple(tensor.shape)}"
        )


def _check_length(name: str, length: int, other: str, expected: int) -> None:
    if length != expected:
        raise ValueError(f"{name} has {length} entries, {other} has {expected}")
