"""Random data sets for the tests beside this file."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from hashdl.data import SparseDataset

_VALUES = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def datasets(draw: st.DrawFn, *, with_values: bool | None = None) -> SparseDataset:
    """Draw a data set; samples without features or labels and empty data sets are among them."""
    n_features = draw(st.integers(1, 50))
    n_labels = draw(st.integers(1, 50))
    features = st.lists(st.integers(0, n_features - 1), max_size=4)
    labels = st.lists(st.integers(0, n_labels - 1), max_size=draw(st.sampled_from([1, 3])))
    samples = draw(st.lists(st.tuples(features, labels), max_size=8))
    if draw(st.booleans()):
        samples = [(own, [0]) for own, _ in samples]
    indices = [index for own, _ in samples for index in own]
    values = None
    if draw(st.booleans()) if with_values is None else with_values:
        values = draw(st.lists(_VALUES, min_size=len(indices), max_size=len(indices)))
    return SparseDataset(
        indptr=_indptr([len(own) for own, _ in samples]),
        indices=torch.tensor(indices, dtype=torch.int32),
        values=None if values is None else torch.tensor(values, dtype=torch.float32),
        label_indptr=_indptr([len(own) for _, own in samples]),
        label_indices=torch.tensor(
            [label for _, own in samples for label in own], dtype=torch.int32
        ),
        n_features=n_features,
        n_labels=n_labels,
    )


def assert_same(left: SparseDataset, right: SparseDataset) -> None:
    """Assert that two data sets are equal in everything."""
    for name in ("indptr", "indices", "values", "label_indptr", "label_indices"):
        one, other = getattr(left, name), getattr(right, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert torch.equal(one, other), name
            assert one.dtype == other.dtype, name
    assert (left.n_features, left.n_labels) == (right.n_features, right.n_labels)
    for name in ("label_names", "sample_names"):
        one, other = getattr(left, name), getattr(right, name)
        assert (None if one is None else list(one)) == (None if other is None else list(other))


def _indptr(counts: list[int]) -> torch.Tensor:
    return torch.tensor([0, *counts]).cumsum(0)
