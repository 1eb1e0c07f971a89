"""Scheme: functions that fold what comes before them give what explicit vectors would."""

from __future__ import annotations

from typing import ClassVar

import hashing_helpers as helpers
import pytest
import torch
from torch import Tensor

from hashdl.hashing import FAMILIES, balancing, functions
from hashdl.hashing.functions import Functions, Scheme
from hashdl.hashing.kmeans import KMeans, Rows
from hashdl.hashing.simhash import SimHash

N, D, L, BITS = 300, 9, 3, 4  # D = d + 1


class ExplicitSimHash(SimHash):
    """The same codes of vectors that are made first."""

    name = "explicit simhash"
    linear: ClassVar[bool] = False


class ExplicitKMeans(KMeans):
    name = "explicit kmeans"
    linear: ClassVar[bool] = False


@pytest.fixture(autouse=True)
def families(monkeypatch: pytest.MonkeyPatch) -> None:
    for family in (ExplicitSimHash(), ExplicitKMeans()):
        monkeypatch.setitem(FAMILIES, family.name, family)


def layer(*, bias: bool = True) -> tuple[Tensor, Tensor | None]:
    """Rows with a large common direction."""
    weight = helpers.randn(N, D - 1) * torch.linspace(0.5, 2, D - 1) + 1
    return weight, helpers.randn(N, seed=1) - 2 if bias else None


def query_moment(queries: Tensor) -> Tensor:
    return balancing.query_moment(queries)[0]


def scheme_of(family: str, **changes: bool) -> Scheme:
    return Scheme(
        family, transform="", bits=BITS, tables=L, **({"center_rows": True, "seed": 5} | changes)
    )


def new(scheme: Scheme, *, balance: bool, bias: bool = True) -> Functions:
    moment = query_moment(helpers.uneven(60, D - 1)) if balance else None
    size = D if balance else 0
    return scheme.new(*layer(bias=bias), moment, torch.zeros(2, size, size), None)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(("balance", "bias"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("family", ["simhash", "kmeans"])
def test_folded_functions_project_as_explicit_vectors_do(
    family: str, balance: bool, bias: bool, center: bool
) -> None:
    folded, explicit = (
        scheme_of(name, center_rows=center) for name in (family, f"explicit {family}")
    )
    assert folded.folds
    assert not explicit.folds
    weight, some_bias = layer(bias=bias)
    x = helpers.uneven(20, D - 1)
    got, wanted = (new(scheme, balance=balance, bias=bias) for scheme in (folded, explicit))
    bound = {"rtol": 1e-3, "atol": 1e-3}
    for tables in (range(L), range(1, 2)):
        torch.testing.assert_close(
            folded.project_rows(weight, some_bias, got, tables),
            explicit.project_rows(weight, some_bias, wanted, tables),
            **bound,
        )
    torch.testing.assert_close(
        folded.project_queries(x, got.queries, got.maps, has_bias=bias),
        explicit.project_queries(x, wanted.queries, wanted.maps, has_bias=bias),
        **bound,
    )
    assert torch.equal(got.queries, got.rows) != balance
    assert torch.equal(got.center, torch.zeros(D)) != center


def test_columns_are_those_of_the_tables() -> None:
    for family, width in (("simhash", BITS), ("kmeans", 2**BITS)):
        scheme = scheme_of(family)
        made = new(scheme, balance=False).rows
        assert made.shape == scheme.shape(D - 1) == (D, L * width)
        assert torch.equal(scheme.columns(made, range(1, 3)), made[:, width:])


def test_maps_stay_where_no_moment_is_given() -> None:
    scheme = scheme_of("simhash")
    balanced = new(scheme, balance=True)
    again = scheme.new(*layer(), None, balanced.maps, None)
    helpers.assert_same_bits(list(again), list(balanced))
    plain = scheme.new(*layer(), None, torch.zeros(2, D, D), None)
    assert torch.equal(plain.maps, torch.eye(D).expand(2, D, D))
    assert torch.equal(plain.rows, plain.queries)


@pytest.mark.parametrize("family", ["simhash", "kmeans", "explicit kmeans"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("balance", [True, False])
def test_rows_that_are_not_finite_are_refused(family: str, balance: bool, value: float) -> None:
    weight, bias = layer()
    weight[7, 2] = value
    moment = query_moment(helpers.uneven(60, D - 1)) if balance else None
    with pytest.raises(ValueError, match="rows are not finite"):
        scheme_of(family).new(weight, bias, moment, torch.zeros(2, D, D), None)


def test_learned_functions_see_as_many_rows_as_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300 rows every second where 150 are enough, and never fewer than the family asks for."""
    seen = []
    fit = KMeans.fit_rows

    def spy(self: KMeans, made: Tensor, rows: Rows, codes: Tensor | None, K: int) -> Tensor:
        seen.append((rows.weight.shape[0], None if codes is None else tuple(codes.shape)))
        return fit(self, made, rows, codes, K)

    monkeypatch.setattr(KMeans, "fit_rows", spy)
    monkeypatch.setattr(functions, "_SAMPLE", N // 2)
    weight, bias = layer()
    codes = torch.zeros(L, N, dtype=torch.int32)
    for bits in (1, 4):
        scheme = Scheme("kmeans", "", bits, L, center_rows=True, seed=0)
        scheme.new(weight, bias, None, torch.zeros(2, 0, 0), codes)
    assert seen == [(150, (150, L)), (300, (300, L))]
