"""HashConfig refuses what makes no sense, and its sizes are what it says."""

from __future__ import annotations

import dataclasses

import pytest

from hashdl import HashConfig, HashLinear
from hashdl.tables import HashTables


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("family", "minhash"),
        ("bits", 0),
        ("bits", 25),
        ("bits", 4.0),
        ("tables", 0),
        ("tables", True),
        ("probes", 0),
        ("cap", 0),
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
        ("shared", -1),
        ("shared", 0.5),
        ("rehash_every", 0),
        ("rehash_every", 2.5),
        ("rehash_growth", 0.99),
        ("rehash_growth", float("inf")),
        ("rehash_growth", float("nan")),
        ("seed", 0.5),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
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
        (HashConfig(active=50, random=0.14), 1000, {"A": 50, "R": 7}),
        (HashConfig(active=50, random=50), 1000, {"A": 50, "R": 50}),
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


def test_a_config_is_frozen_and_hashable() -> None:
    config = HashConfig(active=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.active = 4  # type: ignore[misc]
    assert config.replace() == config
    assert hash(config.replace()) == hash(config)
    assert config.replace(active=4).active == 4
