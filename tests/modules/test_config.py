"""HashConfig refuses what makes no sense, and its sizes are what it says."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from hashdl import HashConfig, HashLinear, HashSoftmaxWithLoss, convert, costs
from hashdl.tables import HashTables


def test_numbers_of_numpy_and_torch_are_taken_as_python_has_them() -> None:
    config = HashConfig(active=np.int64(5), fill=np.float32(0.5), seed=torch.tensor(3))
    assert config == HashConfig(active=5, fill=0.5, seed=3)
    assert [type(v) for v in (config.active, config.fill, config.seed)] == [int, float, int]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("family", "nearest"),
        ("bits", 0),
        ("bits", 25),
        ("bits", 4.0),
        ("tables", 0),
        ("tables", True),
        ("probes", 0),
        ("sketch_levels", 4),
        ("cap", 0),
        ("buckets", "full"),
        ("capacity", 5),  # with exact buckets
        ("candidates", 0),
        ("active", 0),
        ("active", 0.0),
        ("active", 1.5),
        ("active", -0.1),
        ("active", True),
        ("active", "all"),
        ("active", float("nan")),
        ("selection", "best"),
        ("threshold", 0),
        ("random", -1),
        ("random", 1.01),
        ("active_eval", 0),
        ("active_eval", 1.01),
        ("shared", -1),
        ("log_q", -0.5),
        ("log_q", 1.5),
        ("log_q", "half"),
        ("log_q", float("nan")),
        ("shared", 0.5),
        ("rehash_every", 0),
        ("rehash_every", 2.5),
        ("rehash_growth", 0.99),
        ("rehash_growth", float("inf")),
        ("rehash_growth", float("nan")),
        ("rehash_growth", "2"),
        ("rehash_drift", "0.1"),
        ("rehash_drift", 0.0),
        ("rehash_drift", 1.01),
        ("rehash_drift", float("nan")),
        ("log_q", None),
        ("center", 3),
        ("background", "thread"),
        ("sparse_grad", 1),
        ("auto", 0),
        ("balance", "yes"),
        ("fill", "x"),
        ("fill", None),
        ("seed", 0.5),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("rehash_every", 2**63),
        ("family", ["simhash"]),
        ("transform", ["simple"]),
        ("sketch_levels", [2]),
        ("active", torch.tensor([1, 2])),
    ],
)
def test_a_field_out_of_range_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"HashConfig: {field}: got .*, wanted "):
        HashConfig(**{field: value})
    with pytest.raises(ValueError, match=f"HashConfig: {field}: "):
        HashConfig().replace(**{field: value})


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63), -1])
def test_every_seed_of_64_bits_works(seed: int) -> None:
    assert HashLinear(4, 50, config=HashConfig(seed=seed, active=5)).stats()["rows"] == 50


@pytest.mark.parametrize(
    ("config", "n_rows", "wanted"),
    [
        (HashConfig(), 100_000, {"K": 15, "L": 16, "P": 4, "C": 20_000, "A": 5000, "R": 0}),
        (HashConfig(active=1.0), 10, {"A": 10, "C": 10}),
        (HashConfig(active=1), 10, {"A": 1, "C": 4}),
        (HashConfig(active=0.07), 100, {"A": 7}),
        (HashConfig(active=0.071), 100, {"A": 8}),
        (HashConfig(active=1e-9, active_eval=1e-9), 100, {"A": 1, "E": 1, "C": 4}),
        (HashConfig(active=0.5, random=0.0), 0, {"A": 0, "R": 0}),
        (HashConfig(active=50, random=0.14), 1000, {"A": 50, "R": 7}),
        (HashConfig(active=50, random=50), 1000, {"A": 50, "R": 50}),
        (HashConfig(active=50), 1000, {"A": 50, "E": 50}),
        (HashConfig(active=0.05, active_eval=0.04), 1000, {"A": 50, "E": 40}),
        (HashConfig(active=50, active_eval=1), 1000, {"A": 50, "E": 1}),
        (HashConfig(active=50, random=30), 20, {"A": 20, "R": 20}),
        (HashConfig(active=50, candidates=30), 1000, {"C": 30}),
        (HashConfig(bits=2, probes=100), 1000, {"K": 2, "P": 4}),
        (HashConfig(), 1, {"K": 1, "A": 1}),
        (HashConfig(), 10**9, {"K": 20}),
    ],
)
def test_sizes(config: HashConfig, n_rows: int, wanted: dict[str, int]) -> None:
    sizes = dataclasses.asdict(config.sizes(n_rows))
    assert {name: sizes[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("rehash_every", "n_rows", "wanted"),
    [
        (None, 1, 50),
        (None, 203_999, 50),
        (None, 204_000, 51),
        (None, 670_000, 167),
        (None, 10_000_000, 2500),
        (7, 10_000_000, 7),
        (1000, 10, 1000),
    ],
)
def test_steps_from_one_rehash_to_the_next(
    rehash_every: int | None, n_rows: int, wanted: int
) -> None:
    config = HashConfig(rehash_every=rehash_every)
    assert config.rehash_interval(n_rows) == wanted
    assert HashTables(n_rows, 3, config, device="meta").rehash_every == wanted


@pytest.mark.parametrize("config", [HashConfig(active=10, random=11), HashConfig(random=6)])
def test_more_random_rows_than_active_ones(config: HashConfig) -> None:
    with pytest.raises(ValueError, match=r"random: got .* rows, wanted at most active = "):
        HashLinear(4, 100, config=config)


@pytest.mark.parametrize("field", ["active", "active_eval", "random"])
def test_one_row_is_not_every_row(field: str) -> None:
    one, every = HashConfig(**{field: 1}), HashConfig(**{field: 1.0})
    assert one != every
    assert len({one, every, every.replace()}) == 2
    assert one == HashConfig(**{field: 1})
    assert one != "a configuration"


def test_a_config_is_frozen_and_hashable() -> None:
    config = HashConfig(active=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.active = 4  # type: ignore[misc]
    assert config.replace() == config
    assert hash(config.replace()) == hash(config)
    assert config.replace(active=4).active == 4


# ---- auto --------------------------------------------------------------------------------------

AUTO = HashConfig(active=20, bits=4, tables=8, probes=1, auto=True)


@pytest.fixture(params=["dear", "cheap"])
def hashing_is_cheap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whatever the measured factor is, hashing costs more than dense, or less."""
    cheap: bool = request.param == "cheap"
    monkeypatch.setattr(costs, "GATHERED", 0.0 if cheap else 1e9)
    return cheap


def test_without_auto_every_layer_is_hashed(hashing_is_cheap: bool) -> None:
    assert HashLinear(400, 200, config=AUTO.replace(auto=False)).tables is not None


def test_auto_hashes_where_it_pays(hashing_is_cheap: bool) -> None:
    layer = HashLinear(400, 200, config=AUTO)
    assert (layer.tables is not None) == hashing_is_cheap
    assert ("dense by auto" in repr(layer)) != hashing_is_cheap
    assert layer.stats().get("dense_by_auto", False) != hashing_is_cheap
    assert layer.stats()["active"] == (20 if hashing_is_cheap else 200)


@pytest.fixture
def hashing_is_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "GATHERED", 1e9)


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_a_layer_dense_by_auto_is_one_with_every_row(
    hashing_is_dear: None, sparse_grad: bool
) -> None:
    auto = HashLinear(6, 200, config=AUTO.replace(sparse_grad=sparse_grad))
    exact = HashLinear(6, 200, config=AUTO.replace(active=1.0, sparse_grad=sparse_grad))
    exact.load_state_dict(auto.state_dict())
    x = torch.randn(5, 6)
    assert torch.equal(auto(x), exact(x))
    assert torch.equal(auto.active(x), exact.active(x))
    for got, wanted in zip(auto.topk(x, 7), exact.topk(x, 7), strict=True):
        assert torch.equal(got, wanted)
    for layer in (auto, exact):
        layer(x).square().sum().backward()
    assert torch.equal(auto.weight.grad, exact.weight.grad)
    auto.rehash()
    assert auto.stats() == {"rows": 200, "active": 200, "dense_by_auto": True}
    assert "active=200 (dense by auto)" in repr(copy.deepcopy(auto))
    assert "auto" not in repr(exact)


def test_a_softmax_dense_by_auto_is_exact(hashing_is_dear: None) -> None:
    head = HashSoftmaxWithLoss(6, 200, config=AUTO.replace(shared=10)).train()
    x, target = torch.randn(5, 6), torch.arange(5)
    logits = torch.nn.functional.linear(x, head.linear.weight, head.linear.bias)
    wanted = torch.nn.functional.cross_entropy(logits, target)
    torch.testing.assert_close(head(x, target).loss, wanted)


def test_convert_leaves_layers_that_auto_would_run_dense() -> None:
    small, large = torch.nn.Linear(64, 100), torch.nn.Linear(64, 100_000, device="meta")
    seen = []

    def filter_fn(module: torch.nn.Module, fqn: str) -> bool:
        seen.append(fqn)
        return True

    model = convert(torch.nn.Sequential(small, large), AUTO, filter_fn=filter_fn)
    assert seen == ["0", "1"]
    assert model[0] is small
    assert type(model[1]) is HashLinear
    with pytest.warns(UserWarning, match=r"has 1 nn.Linear, none of which hashing would make"):
        convert(torch.nn.Sequential(small), AUTO)


@pytest.mark.parametrize(
    ("changes", "dearer"),
    [
        ({"active": 200}, True),
        ({"candidates": 20}, False),
        ({"tables": 32}, True),
        ({"probes": 8}, True),
        ({"shared": 1000}, True),
        ({"random": 10}, True),
        ({"selection": "sketch"}, False),
        ({"cap": 2}, False),
    ],
)
def test_what_makes_hashing_dearer(changes: dict[str, object], dearer: bool) -> None:
    base = HashConfig(active=50)
    work = costs.hashed_work(base, 100_000, 128)
    assert (costs.hashed_work(base.replace(**changes), 100_000, 128) > work) == dearer


def test_auto_does_not_hold_a_small_layer_for_large_or_a_large_one_for_small() -> None:
    config = HashConfig(active=200, random=100, candidates=300, auto=True)
    assert costs.dense_by_auto(config, 500, 128)
    assert not costs.dense_by_auto(config, 300_000, 128)
    assert not costs.dense_by_auto(config.replace(active=1.0), 500, 128)  # as asked for, not auto
