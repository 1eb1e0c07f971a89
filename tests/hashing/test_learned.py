"""Learned hyperplanes: what they find of queries that they were not trained on."""

from __future__ import annotations

from collections.abc import Iterator

import hashing_helpers as helpers
import pytest
import torch
from torch import Tensor

from hashdl import HashConfig, HashLinear
from hashdl.hashing import FAMILIES
from hashdl.hashing.learned import LearnedSimHash, mine, train_planes
from hashdl.metrics import recall

D, L, K = 24, 4, 7


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As rehashing does it; small products on many threads take far longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def task(*, queries: int = 400, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that differ in 8 directions, queries that differ most in 16 others; planes (D, L K)."""
    rows, x = helpers.randn(800, D, seed=seed), helpers.randn(queries, D, seed=seed + 1)
    rows[:, 8:] *= 0.1
    x[:, 8:] *= 1.5
    return rows, x, FAMILIES["simhash"].make(D, L, K, seed)


def retrieved(planes: Tensor, rows: Tensor, queries: Tensor) -> Tensor:
    """Which rows (Q, M) stand in a bucket of a query."""
    family = FAMILIES["simhash"]
    of_rows, of_queries = (family.codes(vectors @ planes, K) for vectors in (rows, queries))
    return (of_queries[:, None] == of_rows[None]).any(2)


def found(planes: Tensor, rows: Tensor, queries: Tensor) -> tuple[float, float]:
    """Recall of the 10 best rows, and the share of the rows that is met for it."""
    met = retrieved(planes, rows, queries)
    best = (queries @ rows.t()).topk(10).indices
    return float(met.gather(1, best).double().mean()), float(met.double().mean())


@pytest.mark.parametrize("seed", [0, 10, 20])
def test_trained_planes_find_more_of_other_queries_best_rows(seed: int) -> None:
    rows, x, planes = task(seed=seed)
    trained = LearnedSimHash().fit(planes, rows, None, K, queries=x[:200])
    (recall, touched), (plain, by_chance) = (found(p, rows, x[200:]) for p in (trained, planes))
    assert recall > 2 * plain
    assert recall / touched > 1.5 * plain / by_chance


def test_rows_stand_in_for_queries_that_nobody_gives() -> None:
    """Where queries are spread as rows are: here long in few directions."""
    rows = helpers.randn(800, D) * torch.logspace(0.5, -0.5, D)
    queries = helpers.randn(300, D, seed=5) * torch.logspace(0.5, -0.5, D)
    planes = FAMILIES["simhash"].make(D, L, K, 0)
    trained = LearnedSimHash().fit(planes, rows, None, K)
    (recall, touched), (plain, by_chance) = (found(p, rows, queries) for p in (trained, planes))
    assert recall > 1.2 * plain
    assert recall / touched > plain / by_chance


def test_one_round_brings_positives_nearer_and_negatives_away() -> None:
    rows, x, planes = task()
    positives, negatives = mine(planes, rows, x, K, torch.Generator().manual_seed(0))
    trained = train_planes(planes, rows, x, positives, negatives, steps=20)
    for ids, sign in ((positives, 1), (negatives, -1)):
        share = []
        for p in (planes, trained):
            met = retrieved(p, rows, x).gather(1, ids.clamp_min(0))
            share.append(float(met[ids >= 0].double().mean()))
        assert sign * (share[1] - share[0]) > 0.1


def test_mining_keeps_to_its_word() -> None:
    rows, x, planes = task()
    positives, negatives = mine(planes, rows, x, K, torch.Generator().manual_seed(0))
    met, scores = retrieved(planes, rows, x), x @ rows.t()
    assert (positives >= 0).all()
    assert not met.gather(1, positives).any()
    least = scores.gather(1, positives).min(1).values
    missed_better = (scores > least[:, None]) & ~met
    assert (missed_better.sum(1) <= positives.shape[1]).all()
    real = negatives >= 0
    assert real.any()
    assert met.gather(1, negatives.clamp_min(0))[real].all()
    best = scores.topk(16).indices
    assert not (negatives[:, :, None] == best[:, None]).any()


def test_labels_are_found_though_inner_products_say_nothing_of_them() -> None:
    """The label is the row whose first coordinates are like the query's next ones."""
    rows, x, planes = task()
    labels = (x[:, 8:16] @ rows[:, :8].t()).argmax(1)
    trained = LearnedSimHash().fit(planes, rows, None, K, x[:200], labels[:200, None])
    by_chance, found = (
        float(retrieved(p, rows, x[200:]).gather(1, labels[200:, None]).double().mean())
        for p in (planes, trained)
    )
    assert found > 2 * by_chance


def test_steps_are_adam_on_the_hinge() -> None:
    """Against autograd and torch's Adam."""
    rows, x, planes = task(queries=50)
    positives, negatives = mine(planes, rows, x, K, torch.Generator().manual_seed(0))
    negatives[::3] = -1
    units = [torch.nn.functional.normalize(vectors.double(), dim=1) for vectors in (x, rows)]
    wanted = planes.double().requires_grad_()
    optimizer = torch.optim.Adam([wanted], lr=0.01)
    for _ in range(3):
        signs = [torch.tanh(vectors @ wanted) for vectors in units]
        agree = signs[0] @ signs[1].t() / planes.shape[1]
        near, far = (agree.gather(1, ids.clamp_min(0)) for ids in (positives, negatives))
        pairs = (0.5 - near[:, :, None] + far[:, None]).clamp_min(0)
        loss = pairs[(positives >= 0)[:, :, None] & (negatives >= 0)[:, None]].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    got = train_planes(planes, rows, x, positives, negatives, steps=3, lr=0.01)
    torch.testing.assert_close(got.double(), wanted.detach(), rtol=1e-3, atol=1e-4)


def test_training_is_repeatable_and_leaves_its_arguments_alone() -> None:
    rows, x, planes = task()
    before = [tensor.clone() for tensor in (rows, x, planes)]
    one, other = (LearnedSimHash().fit(planes, rows, None, K, queries=x) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, planes)
    for tensor, wanted in zip((rows, x, planes), before, strict=True):
        assert torch.equal(tensor, wanted)
    assert not one.requires_grad


def test_it_trains_where_gradients_are_off() -> None:
    rows, x, planes = task()
    wanted = LearnedSimHash().fit(planes, rows, None, K, queries=x)
    with torch.no_grad():
        assert torch.equal(LearnedSimHash().fit(planes, rows, None, K, queries=x), wanted)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_few_rows_are_enough(rows: int) -> None:
    vectors, x, planes = task(queries=5)
    trained = LearnedSimHash().fit(planes, vectors[:rows], None, K, queries=x)
    assert trained.shape == planes.shape
    assert trained.isfinite().all()


def test_nothing_to_learn_changes_nothing() -> None:
    rows, x, planes = task(queries=5)
    none, some = torch.full((5, 2), -1), torch.zeros(5, 2, dtype=torch.int64)
    for positives, negatives in ((none, some), (some, none), (none[:, :0], some)):
        assert torch.equal(train_planes(planes, rows, x, positives, negatives), planes)


def test_on_a_gpu_planes_are_trained_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though rows that nobody names are projected too, and nobody asks whether any is named."""
    rows, x, planes = task(queries=20)
    positives, negatives = mine(planes, rows, x, K, torch.Generator().manual_seed(0))
    expected = train_planes(planes, rows, x, positives, negatives)
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda tensor: True))
    got = train_planes(planes, rows, x, positives, negatives)
    torch.testing.assert_close(got, expected)
    none = torch.full_like(positives, -1)
    assert torch.equal(train_planes(planes, rows, x, positives, none), planes)


@pytest.mark.parametrize("name", ["positives", "negatives"])
@pytest.mark.parametrize("wrong", [-2, 800])
def test_rows_that_are_not_there_are_refused(name: str, wrong: int) -> None:
    rows, x, planes = task(queries=5)
    ids = {key: torch.zeros(5, 2, dtype=torch.int64) for key in ("positives", "negatives")}
    ids[name][3, 1] = wrong
    with pytest.raises(ValueError, match=f"{name}: got rows from .*, wanted -1 to 799"):
        train_planes(planes, rows, x, **ids)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_layers_learn_with_every_family(name: str) -> None:
    """Tables follow the weight through training, and find what they did not begin with."""
    config = HashConfig(family=name, bits=4, tables=8, active=30, candidates=200, rehash_every=2)
    layer = HashLinear(D, 200, config=config)
    with torch.no_grad():
        layer.weight.copy_(helpers.randn(200, D))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for step in range(6):
        loss = (layer(helpers.randn(16, D, seed=step)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = helpers.randn(50, D, seed=9)
    _, best = layer.eval().topk(x, 5)
    exact = torch.nn.functional.linear(x, layer.weight, layer.bias).topk(5).indices
    hits = (best[:, :, None] == exact[:, None]).any(2).double().mean()
    assert hits > 0.5


# ---- in a layer: queries of late ---------------------------------------------------------------


def layer_and_queries(**changes: object) -> tuple[HashLinear, Tensor]:
    torch.manual_seed(0)  # of the bias
    config = HashConfig(family="learned", bits=K, tables=L, active=30, candidates=800, cap=800)
    layer = HashLinear(D, 800, config=config.replace(probes=1, rehash_every=4, **changes))
    rows, x, _ = task(queries=800)
    with torch.no_grad():
        layer.weight.copy_(rows)
    return layer, x


@pytest.mark.parametrize("changes", [{"balance": False}, {"balance": True}], ids=str)
def test_layers_learn_from_the_queries_that_they_meet(changes: dict[str, object]) -> None:
    layer, x = layer_and_queries(**changes)
    plain, _ = layer_and_queries(**changes, family="simhash")
    reports = []
    for one in (layer, plain):
        one.eval().calibrate(x[:512])
        reports.append(recall(one, x[512:], k=10))
    assert reports[0].recall / reports[0].touched > 1.2 * reports[1].recall / reports[1].touched
    assert reports[0].recall > reports[1].recall


def test_training_goes_on_from_the_functions_in_use() -> None:
    """Tables that are built anew begin anew; a rehash changes little of what there is."""
    layer, x = layer_and_queries()
    for step in range(3):
        layer.active(x[step * 64 :][:64])
    before = layer.tables.functions.clone().view(torch.float32)
    layer.tables.mark(torch.arange(800).int()[None])
    for step in range(3, 6):  # a cycle ends and another begins
        layer.active(x[step * 64 :][:64])
    after = layer.tables.functions.view(torch.float32)
    drawn = layer.tables.scheme.kind.make(D + 1, L, K, 0)
    assert not torch.equal(before, after)
    assert (after - before).norm() < 0.2 * (after - drawn).norm()


def test_a_layer_goes_on_as_before_from_its_history() -> None:
    layer, x = layer_and_queries()
    other, _ = layer_and_queries()
    for step in range(9):
        layer.active(x[step * 32 :][:32])
    other.load_state_dict(layer.state_dict())
    other.tables.set_history(layer.tables.history())
    for one in (layer, other):
        one.tables.invalidate()
    for step in range(9, 18):
        rows = [one.active(x[step * 32 :][:32]) for one in (layer, other)]
        assert torch.equal(*rows)
    for name, buffer in layer.tables.named_buffers():
        if name != "state":  # it knows where the weight lies in memory
            assert torch.equal(buffer, dict(other.tables.named_buffers())[name]), name


def test_layers_without_queries_learn_from_their_rows() -> None:
    layer, _ = layer_and_queries()
    layer.rehash()
    drawn = layer.tables.scheme.kind.make(D + 1, L, K, 0)
    assert not torch.equal(layer.tables.functions.view(torch.float32), drawn)
