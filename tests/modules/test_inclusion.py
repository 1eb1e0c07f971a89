"""Look-ups as samples of the rows: their probabilities, and sums that are unbiased with them.

Expectations are means over many seeds, within five or six standard errors; the seeds are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from module_helpers import make_layer, mask_of
from torch import Tensor

from hashdl import HashConfig, HashLinear, HashSoftmaxWithLoss

N, D, B = 60, 6, 12
SEEDS = range(1000, 1250)  # not those of the data
CONFIG = HashConfig(
    bits=2, tables=4, probes=1, selection="union", active=N - 1, cap=N, balance=False
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Hundreds of layers that are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fill(layer: HashLinear) -> None:
    """Rows of many lengths, off the origin."""
    with torch.no_grad():
        lengths = torch.linspace(0.3, 1.2, N)[:, None]
        layer.weight.copy_((randn(N, D, seed=0) + 0.3) * lengths)
        if layer.bias is not None:
            layer.bias.copy_(randn(N, seed=1) / 2)


def queries() -> Tensor:
    return randn(B, D, seed=2) * torch.linspace(1.5, 0.3, D)


def assert_mean(samples: Tensor, wanted: Tensor) -> None:
    """Of samples, one a seed."""
    assert float(deviations(samples, wanted).max()) < 5


def deviations(samples: Tensor, wanted: Tensor) -> Tensor:
    error = samples.double().std(0) / len(samples) ** 0.5
    return (samples.double().mean(0) - wanted).abs() / error.clamp_min(1e-3)


@pytest.mark.parametrize(
    ("changes", "bias"),
    [
        ({}, True),
        ({}, False),
        ({"center": False, "bits": 4, "tables": 7}, True),
        ({"balance": True}, True),
        ({"balance": True}, False),
        ({"transform": "simple"}, True),
        ({"transform": "sign_alsh", "balance": True}, False),
    ],
    ids=str,
)
def test_rows_are_found_as_often_as_they_should(changes: dict[str, object], bias: bool) -> None:
    x, every = queries(), torch.arange(N).expand(B, -1)
    found = []
    for seed in SEEDS:
        layer = HashLinear(D, N, bias, config=CONFIG.replace(seed=seed, **changes))
        fill(layer)
        found.append(mask_of(layer.active(x), N).double())
    q = layer.inclusion_probability(x, every)
    assert q.std() > 0.03  # it tells rows apart
    frequency = torch.stack(found).mean(0)
    error = (q * (1 - q) / len(SEEDS)).sqrt()
    assert float(((frequency - q).abs() / error.clamp_min(3e-3)).max()) < 6
    # A row of one sample alone, and none.
    rows = torch.tensor([[3, -1]] * B)
    picked = layer.inclusion_probability(x, rows)
    torch.testing.assert_close(picked, torch.stack([q[:, 3], torch.ones(B)], 1))


def test_importance_weights_make_sums_unbiased() -> None:
    x, weighted, plain = queries(), [], []
    for seed in SEEDS:
        layer = HashLinear(D, N, config=CONFIG.replace(seed=seed))
        fill(layer)
        rows, values = layer.sparse_forward(x)
        weighted.append((values / layer.inclusion_probability(x, rows)).sum(1).detach())
        plain.append(values.sum(1).detach())
    exact = torch.nn.functional.linear(x, layer.weight, layer.bias).sum(1).detach()
    assert_mean(torch.stack(weighted), exact)
    assert float(deviations(torch.stack(plain), exact).max()) > 10


def partition(config: HashConfig, bias: bool = True) -> tuple[Tensor, Tensor]:
    """Sums of exponentials (seeds, B) and their gradients (seeds, B, D) by the inputs."""
    labels, sums, slopes = torch.arange(B) * 4, [], []
    for seed in SEEDS:
        head = HashSoftmaxWithLoss(D, N, bias, config=config.replace(seed=seed))
        fill(head.linear)
        x = queries().requires_grad_()
        output, _ = head(x, labels)
        logits = torch.nn.functional.linear(x, head.weight, head.linear.bias)
        sums.append((logits.gather(1, labels[:, None]).squeeze(1) - output).exp())
        slopes.append(torch.autograd.grad(sums[-1].sum(), x)[0])
    return torch.stack(sums).detach(), torch.stack(slopes)


def exact_partition(bias: bool = True) -> tuple[Tensor, Tensor]:
    layer = HashLinear(D, N, bias)
    fill(layer)
    x = queries().requires_grad_()
    sums = torch.nn.functional.linear(x, layer.weight, layer.bias).exp().sum(1)
    return sums.detach(), torch.autograd.grad(sums.sum(), x)[0]


@pytest.mark.parametrize(
    ("changes", "bias"),
    [
        ({}, False),
        ({"balance": True}, True),
        ({"random": 5}, True),
        ({"shared": 16, "random": 5}, True),
    ],
    ids=str,
)
def test_the_corrected_softmax_is_unbiased(changes: dict[str, object], bias: bool) -> None:
    """The sum under the softmax, and its gradient."""
    exact, slope = exact_partition(bias)
    sums, slopes = partition(CONFIG.replace(log_q=True, **changes), bias)
    assert_mean(sums, exact)
    assert_mean(slopes, slope)


def test_the_softmax_as_it_is_is_biased() -> None:
    exact, slope = exact_partition()
    sums, slopes = partition(CONFIG)
    assert (sums <= exact * (1 + 1e-5)).all()  # rows are missing
    assert float(deviations(sums, exact).max()) > 10
    assert float(deviations(slopes, slope).max()) > 10


@pytest.mark.parametrize("changes", [{"probes": 2}, {"selection": "frequency"}], ids=str)
def test_elsewhere_retrieved_classes_count_as_certain(changes: dict[str, object]) -> None:
    sums = [partition(CONFIG.replace(log_q=log_q, **changes))[0] for log_q in (False, True)]
    assert torch.equal(*sums)


@pytest.mark.parametrize(
    "changes",
    [
        {"probes": 2},
        {"buckets": "fifo"},
        {"family": "simhash_sparse"},
        {"family": "simhash_hadamard"},
        {"family": "learned"},
        {"family": "kmeans"},
    ],
    ids=str,
)
def test_what_is_not_known_is_refused(changes: dict[str, object]) -> None:
    layer = HashLinear(D, N, config=CONFIG.replace(**changes))
    rows = torch.zeros(B, 1, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"inclusion_probability: config: not known, wanted "):
        layer.inclusion_probability(queries(), rows)


def test_of_a_layer_without_tables_every_row_is_certain() -> None:
    layer = HashLinear(D, N, config=CONFIG.replace(active=1.0))
    rows = torch.zeros(2, 3, 4, dtype=torch.int32)
    assert torch.equal(layer.inclusion_probability(torch.zeros(2, 3, D), rows), torch.ones(2, 3, 4))


def test_a_large_batch_is_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make_layer(probes=1)
    x, rows = randn(9, layer.in_features, seed=0), torch.arange(9 * 4).reshape(9, 4)
    wanted = layer.inclusion_probability(x, rows)
    monkeypatch.setattr("hashdl.tables._GATHERED", 100)
    torch.testing.assert_close(layer.inclusion_probability(x, rows), wanted)


def test_rows_of_another_shape_are_refused() -> None:
    layer = HashLinear(D, N, config=CONFIG)
    with pytest.raises(RuntimeError, match=r"inclusion_probability: rows: got .* wanted integers"):
        layer.inclusion_probability(queries(), torch.zeros(3, 2, dtype=torch.int32))
