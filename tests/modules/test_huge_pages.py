"""prefer_huge_pages: a hint that changes no value, on tensors of any kind."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hashdl import HashConfig, HashLinear, huge_pages
from hashdl.huge_pages import prefer_huge_pages


@pytest.fixture(autouse=True)
def small_tensors_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_LEAST_BYTES", 1)


@pytest.mark.parametrize("now", [False, True])
@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_values_stay(size: int, now: bool) -> None:
    tensor = torch.arange(size)
    assert prefer_huge_pages(tensor, now=now) is tensor
    assert torch.equal(tensor, torch.arange(size))


@pytest.mark.parametrize("now", [False, True])
def test_parts_of_a_tensor_are_fine(now: bool) -> None:
    whole = torch.arange(3_000_000.0)
    prefer_huge_pages(whole[1::7], now=now)
    assert torch.equal(whole, torch.arange(3_000_000.0))


def test_tensors_without_memory_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode():
        HashLinear(4, 50, config=HashConfig(active=5))
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(huge_pages, "_madvise", lambda: lambda *given: asked.append(given) or 1)
    prefer_huge_pages(torch.empty(10, device="meta"), now=True)
    with FakeTensorMode():
        prefer_huge_pages(torch.empty(10), now=True)
    assert asked == []
    prefer_huge_pages(torch.empty(10_000), now=True)
    assert len(asked) == 1


def test_where_the_system_knows_no_such_hint_nothing_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huge_pages, "_madvise", lambda: None)
    tensor = torch.arange(10_000)
    assert prefer_huge_pages(tensor, now=True) is tensor
