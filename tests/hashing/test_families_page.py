"""docs/families.md: its code runs, and it names every family."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import hashing_helpers as helpers
import pytest
import torch

from hashdl.hashing import FAMILIES
from hashdl.metrics import recall

PAGE = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")


@pytest.fixture
def known_families() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = dict(FAMILIES)
    yield
    FAMILIES.clear()
    FAMILIES.update(before)


def test_every_family_is_described() -> None:
    table = PAGE.partition("## Which one")[0]
    described = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert sorted(described) == sorted(FAMILIES)


@pytest.mark.usefixtures("known_families")
def test_the_family_of_the_page_works() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks[0].strip().splitlines()) <= 35  # "30 lines", imports and blank ones included
    names: dict[str, object] = {}
    exec("\n".join(blocks), names)
    layer, family = names["layer"], FAMILIES["cross_polytope"]
    assert repr(layer)
    functions = family.make(20, 4, 6, 0)
    assert tuple(functions.shape) == family.shape(20, 4, 6)
    vectors = helpers.randn(5000, 20)
    projections = family.project(vectors, functions)
    codes = family.codes(projections, 6)
    assert torch.equal(codes[:, 0].unique(), torch.arange(64).int())
    assert torch.equal(family.probe(projections, 6, 3)[:, :, 0], codes)
    report = recall(layer.eval(), helpers.randn(50, 64), k=10)
    assert report.recall / report.touched > 1.5  # of chance
