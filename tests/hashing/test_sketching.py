"""Sketches: orthogonal directions, lengths, and scores that rank as inner products do."""

from __future__ import annotations

import hashing_helpers as helpers
import pytest
import torch

from hashdl import ops
from hashdl.hashing import balancing, sketching

NO_MAPS = torch.zeros(2, 0, 0)


@pytest.mark.parametrize(("D", "bits"), [(100, 64), (64, 64), (20, 96), (7, 32), (1, 32)])
def test_as_many_directions_as_coordinates_are_orthogonal(D: int, bits: int) -> None:
    rows, queries = sketching.planes(NO_MAPS, D, bits, seed=0)
    assert rows.shape == (D, bits)
    assert torch.equal(rows, queries)
    for block in rows.split(D, dim=1):
        torch.testing.assert_close(block.t() @ block, torch.eye(block.shape[1]))


def test_directions_follow_the_seed() -> None:
    one, same, other = (sketching.planes(NO_MAPS, 9, 32, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    blocks = one.split(9, dim=1)
    assert not torch.equal(blocks[0], blocks[1])


def test_directions_point_anywhere() -> None:
    """Without the signs that QR chooses: no coordinate is mostly positive or negative."""
    drawn = torch.cat([sketching.planes(NO_MAPS, 4, 32, seed)[0] for seed in range(60)], 1)
    assert drawn.mean(1).abs().max() < 0.05
    torch.testing.assert_close(drawn.square().mean(1), torch.full((4,), 0.25))


def test_balanced_directions_meet_rows_and_queries_as_the_maps_do() -> None:
    D = 8
    moments = (
        helpers.uneven(50, D, seed=seed).t() @ helpers.uneven(50, D, seed=seed) for seed in (1, 2)
    )
    maps = balancing.maps(*moments)
    plain, _ = sketching.planes(NO_MAPS, D, 64, seed=3)
    rows, queries = sketching.planes(maps, D, 64, seed=3)
    v = helpers.randn(10, D)
    torch.testing.assert_close(v @ rows, (v @ maps[0]) @ plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(v @ queries, (v @ maps[1]) @ plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("D", "bits"), [(32, 32), (8, 64), (1, 32)])
def test_lengths_are_those_of_the_vectors(D: int, bits: int) -> None:
    """Up to one factor, the same for all rows."""
    vectors = helpers.randn(20, D)
    planes, _ = sketching.planes(NO_MAPS, D, bits, seed=0)
    nowhere = torch.zeros(D)
    _, lengths = sketching.sketch(vectors[:, :-1], vectors[:, -1], planes, nowhere)
    torch.testing.assert_close(lengths * D**0.5, vectors.norm(dim=1))


@pytest.mark.parametrize("bias", [True, False])
def test_bits_are_signs_about_the_centre(bias: bool) -> None:
    planes, _ = sketching.planes(NO_MAPS, 9, 64, seed=0)
    weight, some_bias = helpers.randn(20, 8), helpers.randn(20, seed=1) if bias else None
    center = helpers.randn(9, seed=2)
    last = torch.zeros(20) if some_bias is None else some_bias
    projections = (torch.cat([weight, last[:, None]], 1) - center) @ planes
    sketches, lengths = sketching.sketch(weight, some_bias, planes, center)
    bits = (sketches[:, :, None] >> torch.arange(32)) & 1
    assert torch.equal(bits.reshape(20, 64).bool(), projections > 0)
    torch.testing.assert_close(lengths, projections.square().mean(1).sqrt())


@pytest.mark.usefixtures("threads")
def test_planes_do_not_depend_on_threads() -> None:
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        maps = helpers.randn(2, 300, 300)
        results.append(list(sketching.planes(maps, 300, 256, seed=0)))
    helpers.assert_same_bits(*results)


def test_scores_estimate_inner_products() -> None:
    """Proportional to them, the better the more bits."""
    D, N, B = 24, 400, 30
    rows, queries = helpers.randn(N, D) * torch.linspace(0.2, 2, N)[:, None], helpers.randn(B, D)
    every = torch.arange(N).int().expand(B, N)
    wanted = (queries @ rows.t()).flatten()
    correlations = []
    for bits in (32, 128, 512):
        planes, _ = sketching.planes(NO_MAPS, D, bits, seed=0)
        made = sketching.sketch(rows[:, :-1], rows[:, -1], planes, torch.zeros(D))
        scores = ops.sketch_scores(queries @ planes, *made, every)
        correlations.append(float(torch.corrcoef(torch.stack([scores.flatten(), wanted]))[0, 1]))
    assert correlations == sorted(correlations)
    assert correlations[0] > 0.7
    assert correlations[2] > 0.97


# ---- sixteen levels ------------------------------------------------------------------------------


def leading(D: int, count: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Uneven rows and queries, the maps that balance them, and their leading directions."""
    rows, queries = (helpers.uneven(500, D, seed=seed + i) for i in (1, 2))
    moment = queries.t() @ queries / len(queries)
    maps = balancing.maps(moment, rows.t() @ rows / len(rows))
    return rows, queries, maps, *sketching.planes(maps, D, count, seed, moment)


def levels_of(sketches: torch.Tensor) -> torch.Tensor:
    """Each word's eight."""
    return ((sketches[:, :, None] >> torch.arange(0, 32, 4)) & 15).flatten(1)


def test_all_leading_directions_keep_inner_products() -> None:
    rows, queries, _, of_rows, of_queries = leading(24, 24)
    torch.testing.assert_close(
        (queries @ of_queries) @ (rows @ of_rows).t(), queries @ rows.t(), rtol=1e-3, atol=1e-3
    )


def test_leading_directions_keep_more_of_the_outputs_than_others_do() -> None:
    rows, queries, maps, of_rows, of_queries = leading(48, 8)
    others = sketching.planes(maps, 48, 8, 5)
    outputs = queries @ rows.t()
    errors = [
        float(((queries @ q) @ (rows @ r).t() - outputs).norm())
        for r, q in ((of_rows, of_queries), others)
    ]
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize(("D", "count"), [(5, 32), (1, 8), (33, 32)])
def test_more_directions_than_coordinates_come_in_blocks(D: int, count: int) -> None:
    _, _, _, of_rows, of_queries = leading(D, count)
    assert of_rows.shape == of_queries.shape == (D, count)
    assert of_rows.isfinite().all()


def test_levels_are_those_next_to_the_coordinates() -> None:
    vectors = helpers.randn(30, 32)
    planes = torch.eye(32)
    made = sketching.sketch(vectors[:, :-1], vectors[:, -1], planes, torch.zeros(32), 16)
    levels = levels_of(made[0])
    assert (levels.min(), levels.max()) == (0, 15)
    step = 2.4 / 15 * vectors.square().mean(1, keepdim=True).sqrt()
    nearest = ((vectors / step + 15) / 2).round().clamp(0, 15)
    assert torch.equal(levels.float(), nearest)
    # A row that asks for itself hears its own length: the factor makes no estimate biased.
    again = (2 * levels - 15) * made[1][:, None]
    torch.testing.assert_close((again * vectors).sum(1), vectors.square().sum(1))


def test_rows_of_zeros_score_nothing() -> None:
    sketches, lengths = sketching.sketch(torch.zeros(3, 7), None, torch.eye(8), torch.zeros(8), 16)
    assert sketches.shape == (3, 1)
    assert torch.equal(lengths, torch.zeros(3))


def test_sixteen_levels_rank_better_than_as_many_bits() -> None:
    rows, queries, maps, of_rows, of_queries = leading(64, 32)
    signs = sketching.planes(maps, 64, 128, 0)
    truth = (queries @ rows.t()).topk(5).indices
    every = torch.arange(len(rows)).int().expand(len(queries), -1)
    found = []
    for (r, q), levels in (((of_rows, of_queries), 16), (signs, 2)):
        made = sketching.sketch(rows[:, :-1], rows[:, -1], r, torch.zeros(64), levels)
        assert made[0].shape == (500, 4)
        best = ops.sketch_scores(queries @ q, *made, every).topk(10).indices
        found.append(float((best[:, :, None] == truth[:, None]).any(1).double().mean()))
    assert found[0] > found[1] + 0.1


@pytest.mark.usefixtures("threads")
def test_leading_directions_do_not_depend_on_threads() -> None:
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(list(leading(150, 64)))
    helpers.assert_same_bits(*results)
