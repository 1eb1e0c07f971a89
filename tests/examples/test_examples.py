"""Every example at its tiny size."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from hashdl.nn import HashFeedForward, HashSequential

ROOT = Path(__file__).resolve().parents[2]
# What each one needs beside the package, and the lines of its table.
EXAMPLES = {
    "mlp": ("sklearn", ["dense", "convert, 5 % active", "HashMLP, 5 % active"]),
    "cnn_classifier": ("sklearn", ["dense", "5 % active", "20 % active"]),
    "lstm_language_model": ("torch", ["dense", "hashed"]),
    "two_tower": ("torch", ["every item", "8 tables", "32 tables"]),
    "sentence_encoder": ("transformers", ["dense", "5% active", "50% active"]),
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
