"""A tiny data set that a small net learns in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hashdl.data import SparseDataset, write_xmc


def make_dataset(samples: int, *, labels: int = 200, several: bool, seed: int = 0) -> SparseDataset:
    """Each label has features of its own, so that the labels can be told from the features."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(labels, (samples,), generator=generator)
    features = (label[:, None] * 3 + torch.arange(3)).to(torch.int32)
    second = (label + 1) % labels
    label_rows = torch.stack([label, second], 1) if several else label[:, None]
    return SparseDataset(
        indptr=torch.arange(0, 3 * samples + 1, 3),
        indices=features.flatten(),
        values=torch.ones(3 * samples) if several else None,
        label_indptr=torch.arange(0, label_rows.numel() + 1, label_rows.shape[1]),
        label_indices=label_rows.flatten().to(torch.int32),
        n_features=3 * labels,
        n_labels=labels,
        label_names=[f"xx:label{i}" for i in range(labels)],
        sample_names=[f"sample{i}" for i in range(samples)],
    )


@pytest.fixture
def single_label() -> tuple[SparseDataset, SparseDataset]:
    """Training and held-out samples with one label each."""
    return make_dataset(2000, several=False), make_dataset(300, several=False, seed=1)


@pytest.fixture
def xmc_files(tmp_path: Path) -> str:
    """A ``--data`` argument: two files in the XMC format, two labels a sample."""
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    write_xmc(make_dataset(2000, several=True), train)
    write_xmc(make_dataset(300, several=True, seed=1), test)
    return f"xmc:{train},{test}"
