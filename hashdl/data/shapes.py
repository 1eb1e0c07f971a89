"""Rectangles and Convex: drawn as Larochelle et al. defined them (ICML 2007, section 4.2).

The original files are drawn by scripts that were never published; what is known of them is the
paper and the pages that came with the data. Where these leave a choice it is named below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from hashdl.data.dense import DenseDataset, Splits, check_sizes

#: Images are SIDE × SIDE pixels.
SIDE = 28

Masks = npt.NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)
Draw = Callable[[np.random.Generator, int], tuple[Masks, npt.NDArray[np.int64]]]

# Sides of a rectangle that differ by less are drawn again.
_LEAST_DIFFERENCE = 3
# Parameter of the geometric number of half-planes, and fewest pixels: of a convex image, and of
# the convex sets that a non-convex image is the union of.
_CONVEX, _PART = (0.195, 19), (0.07, 10)
_MOST_PARTS = 4
# Candidates drawn at once; another number would give other images.
_CHUNK = 1024


def load_rectangles(
    train: int = 1000, valid: int = 200, test: int = 50_000, *, seed: int = 0
) -> Splits:
    """Outlines of rectangles: is it wide (class 1) or tall (class 0)?

    Width and height are uniform, and drawn again while they differ by less than 3 pixels; the place
    is uniform among those where the rectangle fits into the image. Pixels of the outline are 1, all
    others 0. Larochelle et al., *An Empirical Evaluation of Deep Architectures on Problems with
    Many Factors of Variation* (ICML 2007), section 4.2.

    Args:
        train: Training samples. Default: 1,000, as published.
        valid: Validation samples. Default: 200, as published.
        test: Test samples. Default: 50,000, as published.
        seed: Of all that is drawn. A part's samples do not depend on the size of the others.

    Returns:
        The three parts; inputs are ``(n, 784)``.

    Raises:
        ValueError: If a size is negative.

    Examples:
        >>> load_rectangles(10, 5, 5).train
        DenseDataset(10 samples, 784 features, 2 classes)
    """
    return _splits(_draw_rectangles, train, valid, test, seed)


def load_convex(
    train: int = 6000, valid: int = 2000, test: int = 50_000, *, seed: int = 0
) -> Splits:
    """White regions: convex (class 1) or not (class 0)?

    A convex region is the intersection of half-planes with uniform orientation, through points
    that are uniform in the image; their number is geometric with parameter 0.195, counted from 0.
    Regions of fewer than 19 pixels are drawn again. A non-convex one is the union of 2 to 4 such
    regions, with parameter 0.07 and at least 10 pixels each; unions are drawn again unless some two
    white pixels have a black one half-way between them. Larochelle et al. (ICML 2007), section 4.2.

    That the number of half-planes begins with 0 follows from the published statement that the
    parameters were balanced: so both classes have 445 white pixels on average; counted from 1
    they would have 281 and 476. It makes a third of the convex regions the whole image.

    Args:
        train: Training samples. Default: 6,000, as published.
        valid: Validation samples. Default: 2,000, as published.
        test: Test samples. Default: 50,000, as published.
        seed: Of all that is drawn. A part's samples do not depend on the size of the others.

    Returns:
        The three parts; inputs are ``(n, 784)``.

    Raises:
        ValueError: If a size is negative.

    Examples:
        >>> load_convex(10, 5, 5).test
        DenseDataset(5 samples, 784 features, 2 classes)
    """
    return _splits(_draw_convex, train, valid, test, seed)


def _splits(draw: Draw, train: int, valid: int, test: int, seed: int) -> Splits:
    check_sizes(train=train, valid=valid, test=test)
    sizes = (train, valid, test)
    return Splits(*(_part(draw, size, [part, seed]) for part, size in enumerate(sizes)))


def _part(draw: Draw, size: int, seed: list[int]) -> DenseDataset:
    images, targets = draw(np.random.default_rng(seed), size)
    inputs = torch.from_numpy(images.reshape(size, SIDE * SIDE)).float()
    return DenseDataset(inputs, torch.from_numpy(targets), n_classes=2)


# ---- rectangles --------------------------------------------------------------------------------


def _draw_rectangles(rng: np.random.Generator, count: int) -> tuple[Masks, npt.NDArray[np.int64]]:
    def candidates() -> npt.NDArray[np.int64]:
        sides = rng.integers(1, SIDE + 1, (_CHUNK, 2))
        return sides[abs(sides[:, 0] - sides[:, 1]) >= _LEAST_DIFFERENCE]

    sides = _collect(candidates, count)
    corner = rng.integers(0, SIDE - sides + 1)
    place = np.arange(SIDE)[:, None]
    last = corner + sides - 1
    inside = (place >= corner[:, None]) & (place <= last[:, None])  # (count, SIDE, 2)
    edge = (place == corner[:, None]) | (place == last[:, None])
    outline = (edge[:, :, None, 0] & inside[:, None, :, 1]) | (
        inside[:, :, None, 0] & edge[:, None, :, 1]
    )
    return outline, (sides[:, 1] > sides[:, 0]).astype(np.int64)


# ---- convex ------------------------------------------------------------------------------------


def _draw_convex(rng: np.random.Generator, count: int) -> tuple[Masks, npt.NDArray[np.int64]]:
    targets = rng.integers(0, 2, count)
    images = np.empty((count, SIDE, SIDE), dtype=np.bool_)
    convex = targets == 1
    images[convex] = _collect(lambda: _regions(rng, *_CONVEX), int(convex.sum()))
    images[~convex] = _collect(lambda: _unions(rng), int((~convex).sum()))
    return images, targets


def _regions(rng: np.random.Generator, parameter: float, least: int) -> Masks:
    """Intersections of half-planes that have enough pixels, of one chunk of candidates."""
    planes = rng.geometric(parameter, _CHUNK) - 1
    y, x = np.divmod(np.arange(SIDE * SIDE), SIDE)
    pixels = np.stack([x, y])
    regions = np.ones((_CHUNK, SIDE * SIDE), dtype=np.bool_)
    enough = np.ones(_CHUNK, dtype=np.bool_)  # further planes only take away
    for number in range(planes.max(initial=0)):
        angle = rng.uniform(0, 2 * np.pi, _CHUNK)
        point = rng.uniform(-0.5, SIDE - 0.5, (_CHUNK, 2))
        cut = np.flatnonzero((planes > number) & enough)
        normal = np.stack([np.cos(angle[cut]), np.sin(angle[cut])], 1)
        regions[cut] &= normal @ pixels >= (normal * point[cut]).sum(1, keepdims=True)
        enough[cut] = np.count_nonzero(regions[cut], axis=1) >= least
    return regions[enough].reshape(-1, SIDE, SIDE)


def _unions(rng: np.random.Generator) -> Masks:
    """Unions of regions that are not convex, of one chunk of regions."""
    parts = _collect(lambda: _regions(rng, *_PART), _CHUNK)
    sets = parts.reshape(-1, _MOST_PARTS, SIDE, SIDE)
    used = np.arange(_MOST_PARTS) < rng.integers(2, _MOST_PARTS + 1, len(sets))[:, None]
    unions: Masks = np.logical_or.reduce(sets & used[:, :, None, None], axis=1)
    return unions[~is_convex(unions)]


def is_convex(images: Masks) -> npt.NDArray[np.bool_]:
    """Whether the pixel half-way between any two white pixels is white, where there is one.

    True of whatever pixels a convex region covers.

    Args:
        images: ``(n, SIDE, SIDE)``.

    Returns:
        ``(n,)``

    Examples:
        >>> image = np.zeros((1, SIDE, SIDE), dtype=np.bool_)
        >>> image[0, 3, [4, 6]] = True
        >>> is_convex(image)
        array([False])
        >>> image[0, 3, 5] = True
        >>> is_convex(image)
        array([ True])
    """
    # The pairs with pixel m half-way are those that add up to 2 m: the image convolved with itself.
    size = (2 * SIDE, 2 * SIDE)
    spectrum = np.fft.rfft2(images, size)
    pairs = np.fft.irfft2(spectrum**2, size)[:, ::2, ::2].round()
    return np.asarray(~((pairs > 0) & ~images).any((1, 2)))


def _collect(candidates: Callable[[], npt.NDArray[Scalar]], count: int) -> npt.NDArray[Scalar]:
    """The first ``count`` of what repeated draws accept."""
    found = [candidates()]
    while sum(map(len, found)) < count:
        found.append(candidates())
    return np.concatenate(found)[:count]
