"""Every example at its tiny size."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from examples.sentence_encoder import Block, contenders, rank_correlation
from hashdl.nn import HashFeedForward, HashSequential

ROOT = Path(__file__).resolve().parents[2]
# What each one needs beside the package, and the lines of its table.
EXAMPLES = {
    "mlp": ("sklearn", ["dense", "convert, 5 % active", "HashMLP, 10 % active"]),
    "cnn_classifier": ("sklearn", ["dense", "5 % active", "20 % active"]),
    "lstm_language_model": ("torch", ["dense", "hashed"]),
    "two_tower": ("torch", ["every item", "tuned for 0.8", "tuned for 0.95"]),
    "sentence_encoder": ("transformers", ["dense", "hashed 5%", "largest 50%"]),
}


@pytest.fixture(autouse=True)
def same_generator_afterwards() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_its_table(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    needed, lines = EXAMPLES[name]
    pytest.importorskip(needed)
    assert importlib.import_module(f"examples.{name}").main(["--quick"]) == 0
    printed = capsys.readouterr().out
    for line in lines:
        assert f"\n{line}" in printed


def test_the_list_has_every_example() -> None:
    found = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert found - {"__init__", "common"} == set(EXAMPLES)
    for name in EXAMPLES:
        text = (ROOT / "examples" / f"{name}.py").read_text()
        assert f"\n    python examples/{name}.py\n" in text
        assert name in (ROOT / "examples" / "README.md").read_text()


def test_the_classifier_of_the_cnn_is_chained() -> None:
    from examples.cnn_classifier import make_cnn
    from hashdl import HashConfig, convert

    net = make_cnn(50)
    convert(net, HashConfig(active=5), filter_fn=lambda module, fqn: module.out_features == 50)
    assert type(net[1]) is HashSequential


def test_a_sentence_encoder_with_every_neuron_is_the_dense_one() -> None:
    pytest.importorskip("transformers")
    from examples import sentence_encoder
    from hashdl import HashConfig

    model, tokenize = sentence_encoder.load_model(quick=True)
    hashed = sentence_encoder.hash_feed_forward(model, HashConfig(active=1.0)).eval()
    assert sum(isinstance(module, HashFeedForward) for module in hashed.modules()) == 2
    assert isinstance(hashed.encoder.layer[0].output.dense, nn.Identity)  # type: ignore[union-attr,index]
    tokens = [tokenize("a sentence"), tokenize("another one")]
    with torch.no_grad():
        wanted = sentence_encoder.embed(model.eval(), tokens)
        torch.testing.assert_close(sentence_encoder.embed(hashed, tokens), wanted)


def make_block(active: float) -> tuple[Block, nn.Linear, nn.Linear]:
    """A block with tables in which every neuron is found, and the layers of the dense one."""
    torch.manual_seed(0)
    up, down = nn.Linear(8, 40), nn.Linear(40, 8)
    layer = SimpleNamespace(
        intermediate=SimpleNamespace(dense=up), output=SimpleNamespace(dense=down)
    )
    config = contenders(40, [active])[f"largest {active:.0%}"]
    return Block(layer, config).eval(), up, down


@torch.no_grad()
def test_an_inactive_neuron_counts_as_its_mean_over_tokens_it_is_inactive_for() -> None:
    block, up, down = make_block(0.25)
    given, x = torch.randn(30, 8), torch.randn(5, 8)
    block.calibrate(given)

    def largest(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = up(inputs)
        kept = torch.zeros_like(z, dtype=torch.bool).scatter(1, z.topk(10, dim=1).indices, True)
        return nn.functional.gelu(z), kept

    h, kept = largest(given)
    rest = torch.stack([h[~kept[:, n], n].mean() for n in range(40)])
    torch.testing.assert_close(block.rest, rest)
    h, kept = largest(x)
    torch.testing.assert_close(block(x), down(torch.where(kept, h, rest)))


@torch.no_grad()
def test_multiplications_of_a_block_count_what_is_ranked() -> None:
    block, _, _ = make_block(0.25)
    # Hashing by one plane of 9 coordinates, 40 rows ranked, 10 columns read; of 2 x 40 rows.
    assert block.multiplications(torch.randn(5, 8)) == (9 + 40 * 8 + 10 * 8) / (2 * 40 * 8)


def test_rank_correlation_is_spearmans() -> None:
    stats = pytest.importorskip("scipy.stats")
    one, other = (nn.functional.normalize(torch.randn(7, 4), dim=1) for _ in range(2))
    pairs = torch.triu_indices(7, 7, 1)
    wanted = stats.spearmanr(*((some @ some.t())[pairs[0], pairs[1]] for some in (one, other)))
    assert rank_correlation(one, other) == pytest.approx(wanted.statistic)
    assert rank_correlation(one, one) == pytest.approx(1)
