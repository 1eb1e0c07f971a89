"""Batches, subsets, splits and files of SparseDataset, against naive Python."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_strategies import assert_same, datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from hashdl.data import DataError, SparseDataset


def int32(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


@pytest.fixture
def multi_label() -> SparseDataset:
    return SparseDataset(
        indptr=torch.tensor([0, 2, 2, 5]),
        indices=int32(0, 4, 2, 3, 1),
        values=torch.tensor([1.0, 0.5, 2.0, -1.0, 3.0]),
        label_indptr=torch.tensor([0, 3, 3, 4]),
        label_indices=int32(1, 0, 2, 3),
        n_features=5,
        n_labels=4,
        label_names=("a", "b", "ç", "d"),
        sample_names=["first", "second", "third"],
    )


@settings(deadline=None)
@given(datasets(), st.data())
def test_batch_equals_a_python_loop(dataset: SparseDataset, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(dataset) - 1), max_size=6)) if len(dataset) else []
    batch = dataset.batch(torch.tensor(rows, dtype=torch.int64))
    indices: list[int] = []
    weights: list[float] = []
    offsets: list[int] = []
    labels: list[list[int]] = []
    for row in rows:
        start, end = dataset.indptr[row].item(), dataset.indptr[row + 1].item()
        offsets.append(len(indices))
        indices += dataset.indices[start:end].tolist()
        if dataset.values is not None:
            weights += dataset.values[start:end].tolist()
        first, last = dataset.label_indptr[row].item(), dataset.label_indptr[row + 1].item()
        labels.append(dataset.label_indices[first:last].tolist())

    assert batch.indices.dtype == batch.offsets.dtype == batch.targets.dtype == torch.int64
    assert batch.indices.tolist() == indices
    assert batch.offsets.tolist() == offsets
    assert (batch.weights is None) == (dataset.values is None)
    if batch.weights is not None:
        assert batch.weights.dtype == torch.float32
        assert batch.weights.tolist() == weights
    if all(n == 1 for n in dataset.label_indptr.diff().tolist()):
        assert batch.targets.tolist() == [label for (label,) in labels]
    else:
        width = max([1, *map(len, labels)])
        padded = [own + [-1] * (width - len(own)) for own in labels]
        assert batch.targets.tolist() == padded
        assert batch.targets.dim() == 2


def test_batch_feeds_an_embedding_bag(multi_label: SparseDataset) -> None:
    bag = torch.nn.EmbeddingBag(5, 3, mode="sum")
    batch = multi_label.batch(torch.tensor([2, 1, 0]))
    dense = torch.tensor([[0, 3.0, 2, -1, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0.5]])
    out = bag(batch.indices, batch.offsets, batch.weights)
    torch.testing.assert_close(out, dense @ bag.weight)
    assert len(batch) == 3
    assert batch.to("cpu").targets.tolist() == [[3, -1, -1], [-1, -1, -1], [1, 0, 2]]


@pytest.mark.parametrize("rows", [[-1], [3], [0, 7]])
def test_rows_out_of_range(multi_label: SparseDataset, rows: list[int]) -> None:
    with pytest.raises(IndexError, match="between 0 and 2"):
        multi_label.batch(torch.tensor(rows))


def test_rows_must_be_integers(multi_label: SparseDataset) -> None:
    with pytest.raises(IndexError, match="vector of integers"):
        multi_label.subset(torch.tensor([True, False, True]))


def test_batches_hold_each_sample_once(multi_label: SparseDataset) -> None:
    def labels(**options: object) -> list[int]:
        batches = multi_label.batches(2, **options)  # type: ignore[arg-type]
        return [len(batch) for batch in batches]

    assert labels(shuffle_seed=None) == [2, 1]
    assert labels(shuffle_seed=3) == [2, 1]
    assert labels(shuffle_seed=None, drop_last=True) == [2]
    with pytest.raises(ValueError, match="batch_size"):
        next(multi_label.batches(0, shuffle_seed=None))


def test_shuffling_follows_the_seed() -> None:
    n = 50
    dataset = SparseDataset(
        indptr=torch.arange(n + 1),
        indices=torch.arange(n, dtype=torch.int32),
        values=None,
        label_indptr=torch.arange(n + 1),
        label_indices=torch.arange(n, dtype=torch.int32),
        n_features=n,
        n_labels=n,
    )

    def order(seed: int | None) -> list[int]:
        return torch.cat([b.targets for b in dataset.batches(8, shuffle_seed=seed)]).tolist()

    assert order(None) == list(range(n))
    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == list(range(n))

    train, held_out = dataset.split(0.2, seed=5)
    again = dataset.split(0.2, seed=5)[1]
    assert (len(train), len(held_out)) == (40, 10)
    assert held_out.indices.tolist() == again.indices.tolist()
    assert sorted([*train.indices.tolist(), *held_out.indices.tolist()]) == list(range(n))
    with pytest.raises(ValueError, match="fraction"):
        dataset.split(1.5, seed=0)


def test_subset_keeps_names(multi_label: SparseDataset) -> None:
    part = multi_label.subset(torch.tensor([2, 0]))
    assert part.sample_names == ["third", "first"]
    assert part.label_names == ("a", "b", "ç", "d")
    assert part.indices.tolist() == [2, 3, 1, 0, 4]
    assert part.label_indptr.tolist() == [0, 1, 4]


def test_repr_and_single_label(multi_label: SparseDataset) -> None:
    assert not multi_label.single_label
    expected = "SparseDataset(1 samples, 5 features, 4 labels, single-label)"
    assert repr(multi_label.subset(torch.tensor([2]))) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indptr": torch.tensor([0, 2, 2, 4])}, "indptr ends with 4, but indices has 5"),
        ({"indptr": torch.tensor([1, 2, 2, 5])}, "indptr must begin with 0"),
        ({"indptr": torch.tensor([0, 3, 2, 5])}, "indptr must not decrease"),
        ({"indptr": int32(0, 2, 2, 5)}, "indptr must be a vector of torch.int64"),
        ({"indices": int32(0, 5, 2, 3, 1)}, "n_features - 1 = 4, got 0 to 5"),
        ({"indices": int32(0, -4, 2, 3, 1)}, "got -4 to 3"),
        ({"indices": torch.tensor([0, 4, 2, 3, 1])}, "indices must be a vector of torch.int32"),
        ({"values": torch.ones(4)}, "values has 4 entries, indices has 5"),
        ({"values": torch.ones(5, dtype=torch.float64)}, "values must be a vector"),
        ({"label_indices": int32(1, 0, 2, 4)}, "n_labels - 1 = 3"),
        (
            {"label_indptr": torch.tensor([0, 4]), "sample_names": None},
            "label_indptr has 2 entries, indptr has 4",
        ),
        ({"n_features": -1}, "n_features must not be negative"),
        ({"label_names": ["a"]}, "label_names has 1 entries, n_labels has 4"),
        ({"sample_names": ["a"]}, "sample_names has 1 entries, samples has 3"),
    ],
)
def test_invalid_parts(
    multi_label: SparseDataset, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(multi_label, **changes)


def test_save_and_load(multi_label: SparseDataset, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "data.pt"
    multi_label.save(path)
    assert_same(SparseDataset.load(path), multi_label)
    plain = replace(multi_label, values=None, label_names=None, sample_names=None)
    plain.save(path)
    assert_same(SparseDataset.load(path), plain)


def test_interrupted_save_keeps_the_old_file(
    multi_label: SparseDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.pt"
    multi_label.save(path)

    def interrupted(state: object, file: os.PathLike[str]) -> None:
        Path(file).write_bytes(b"half of the bytes")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        multi_label.subset(torch.tensor([0])).save(path)
    assert_same(SparseDataset.load(path), multi_label)
    assert list(tmp_path.iterdir()) == [path]


def test_load_refuses_other_files(multi_label: SparseDataset, tmp_path: Path) -> None:
    path = tmp_path / "data.pt"
    path.write_bytes(b"not at all")
    with pytest.raises(DataError, match=r"data\.pt: not a saved data set"):
        SparseDataset.load(path)
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(DataError, match=r"data\.pt: not a saved data set of format"):
        SparseDataset.load(path)
    multi_label.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"data\.pt"):
        SparseDataset.load(path)
    with pytest.raises(FileNotFoundError):
        SparseDataset.load(tmp_path / "absent.pt")
