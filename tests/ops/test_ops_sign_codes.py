"""sign_codes: codes of rows, with no projections in between."""

from __future__ import annotations

import ops_samples as samples
import pytest
import torch

from hashdl import ops
from hashdl.hashing.functions import project_rows


def test_known_codes() -> None:
    weight, bias = samples.int32([[3, -1], [0, 2]]).float(), torch.tensor([0.0, -9.0])
    center, planes = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    codes = ops.sign_codes(weight, bias, center, planes, bits=1)
    assert codes.tolist() == [[1, 0], [0, 0]]
    assert ops.sign_codes(weight, None, center, planes, bits=2).tolist() == [[0b01, 0b10]]


@pytest.mark.parametrize("dtype", samples.DTYPES)
def test_they_are_the_packed_projections(dtype: torch.dtype) -> None:
    given = samples.sample_dict("sign_codes", M=200, d=40, L=7, bits=9, dtype=dtype)
    bits = given.pop("bits")
    projections = project_rows(**given)
    expected = ops.pack_signs(projections, bits).t()
    assert torch.equal(ops.sign_codes(**given, bits=bits), expected)


@pytest.mark.usefixtures("threads")
def test_results_do_not_depend_on_threads() -> None:
    torch.manual_seed(0)
    args = (torch.randn(5000, 67), torch.randn(5000), torch.randn(68), torch.randn(68, 77))
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(ops.sign_codes(*args, bits=11))
    samples.assert_same_bits(*([codes] for codes in results[:2]))
    samples.assert_same_bits(*([codes] for codes in results[1:]))


def test_codes_do_not_depend_on_the_rows_beside() -> None:
    """A rehash hashes some of the rows: their codes are those of all rows at once."""
    torch.manual_seed(0)
    weight, bias, center, planes = (torch.randn(size) for size in ((50, 33), 50, 34, (34, 40)))
    every = ops.sign_codes(weight, bias, center, planes, bits=5)
    for some in ([7], [1, 2, 3, 4, 5, 6, 9], list(range(20, 50))):
        found = ops.sign_codes(weight[some], bias[some], center, planes, bits=5)
        assert torch.equal(found, every[:, some])


def test_planes_may_be_those_of_some_tables() -> None:
    *args, planes, bits = samples.sample("sign_codes")
    wide = torch.cat([planes, planes], 1)[:, : planes.shape[1]]
    call = samples.kernel("sign_codes")
    assert torch.equal(call(*args, wide, bits), call(*args, planes, bits))
