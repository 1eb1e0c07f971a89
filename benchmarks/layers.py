"""The contenders: output layers of N rows, each in the fastest form that a user has at hand."""

from __future__ import annotations

import ast
import dataclasses
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from hashdl import demo, optim
from hashdl.config import HashConfig
from hashdl.ops import MAX_BITS
from hashdl.products import linear
from hashdl.profiling import part
from hashdl.training.heads import DenseHead, HashedHead, Head, HeadFactory, SampledHead

NAMES = (
    *("dense", "dense_onednn", "chunked", "adaptive", "sampled_1000", "sampled_4000"),
    *("hashed", "hashed_shared"),
)

#: The same steps with another loss, where accuracy counts: draws corrected for by log q, or half.
CORRECTED = (
    *("sampled_1000_half_log_q", "sampled_1000_log_q"),
    *("sampled_4000_half_log_q", "sampled_4000_log_q"),
)

#: How the hashed contenders hash, where steps are timed; see :func:`step_configs`.
CONFIGS = {
    "hashed": HashConfig(
        active=200, random=100, candidates=300, tables=8, probes=4, cap=64, sparse_grad=True
    ),
    "hashed_shared": HashConfig(
        active=32, shared=1000, candidates=128, tables=8, probes=2, cap=64, sparse_grad=True
    ),
}

#: And where accuracy counts: as in the demo, and few such rows beside those that a batch shares.
TRAINING_CONFIGS = {
    "hashed": demo.CONFIG,
    "hashed_shared": HashConfig(
        active=8,
        candidates=32,
        bits=14,
        tables=2,
        probes=2,
        cap=64,
        shared=3000,
        log_q=0.5,
        rehash_every=25,
        sparse_grad=True,
    ),
}

#: Optimizers by name. Each takes dense and sparse gradients.
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "adam": lambda parameters: optim.Adam(parameters, lr=1e-3, fused=True),
    "adam_bf16": lambda parameters: optim.Adam(parameters, lr=1e-3, state_dtype=torch.bfloat16),
    "rowwise_adagrad": lambda parameters: optim.RowWiseAdagrad(parameters, lr=1e-2),
}

# Torch's own choice of a chunk, by the ratio of classes to features, is one sample or a few where
# classes are many: ten times slower on a CPU than the dense layer.
_CHUNKED_SAMPLES = 64
# Samples whose N log probabilities are held at once.
_CHUNK = 512


class OnednnHead(DenseHead):
    """The dense layer by the library that hashed layers multiply with: see hashdl.products.

    Users have no such layer, but where torch's own products are slow it tells by how much.
    """

    def logits(self, hidden: Tensor) -> Tensor:
        """All outputs, (B, N)."""
        return linear(hidden, self.linear.weight, self.linear.bias)


class ChunkedHead(DenseHead):
    """torch's linear_cross_entropy: the loss of :class:`DenseHead` without all logits at once."""

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over all classes; one label a sample."""
        with part("forward"):  # computes the gradients as well
            return F.linear_cross_entropy(
                hidden,
                self.linear.weight,
                targets,
                linear_bias=self.linear.bias,
                options=nn.LinearCrossEntropyOptions(
                    acc_policy="compact",
                    chunking_method=None,
                    batch_chunk_size=_CHUNKED_SAMPLES,
                ),
            )


class AdaptiveHead(Head):
    """:class:`torch.nn.AdaptiveLogSoftmaxWithLoss`; the first cluster has 1 % of the classes.

    The most frequent 1 % stand in the head, the next 9 % in a cluster of width d / 4, the others in
    one of width d / 16.

    Args:
        features: d, at least 16.
        n_classes: N, at least 20.
        frequencies: how often each class is the label, (N,): that is the order of classes.
    """

    def __init__(self, features: int, n_classes: int, frequencies: Tensor) -> None:
        super().__init__(features, n_classes)
        cutoffs = [max(n_classes // 100, 1), n_classes // 10]
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(features, n_classes, cutoffs)
        order = frequencies.argsort(descending=True, stable=True)
        self.order: Tensor
        self.place: Tensor
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("place", order.argsort(), persistent=False)
        per_cluster = frequencies[order].double().tensor_split(cutoffs)
        total = float(frequencies.sum())
        self._shares = [float(cluster.sum()) / total for cluster in per_cluster]
        self._sizes = [len(cluster) for cluster in per_cluster]

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over the head and each sample's own cluster; one label a sample."""
        with part("forward"):  # and the loss: they are one module
            loss: Tensor = self.softmax(hidden, self.place[targets]).loss
            return loss

    @torch.no_grad()
    def topk(self, hidden: Tensor, k: int) -> Tensor:
        """The k most probable classes, int64 (B, k)."""
        chunks = hidden.split(_CHUNK)
        return self.order[torch.cat([self.softmax.log_prob(x).topk(k).indices for x in chunks])]

    def multiplications(self, batch_size: int) -> float:
        """The head, and the cluster of a sample's label, forward and two gradients."""
        head = self._sizes[0] + len(self._sizes) - 1
        total = float(head * self.features)
        for i, (share, size) in enumerate(zip(self._shares[1:], self._sizes[1:], strict=True)):
            width = self.features // 4 ** (i + 1)
            total += share * width * (self.features + size)
        return 3.0 * total

    def rows_read(self, hidden: Tensor, targets: Tensor) -> float:
        """The head's rows and those of the label's cluster."""
        tails = zip(self._shares[1:], self._sizes[1:], strict=True)
        return self._sizes[0] + len(self._sizes) - 1 + sum(share * size for share, size in tails)


def make_configs(
    base: Mapping[str, HashConfig], overrides: Sequence[str], **changes: object
) -> dict[str, HashConfig]:
    """Configurations with changes.

    Args:
        base: what is changed, by contender.
        overrides: ``FIELD=VALUE``, of the command line.
        **changes: fields; ``overrides`` come first.

    Raises:
        ValueError: no such field or value.
    """
    fields = changes | {name: _value(text) for name, text in parse_pairs(overrides).items()}
    try:
        return {name: config.replace(**fields) for name, config in base.items()}
    except TypeError as error:
        raise ValueError(f"--config: {error}") from error


def step_configs(rows: int, overrides: Sequence[str], **changes: object) -> dict[str, HashConfig]:
    """:data:`CONFIGS` for a layer of so many rows, with changes as of :func:`make_configs`.

    A bucket holds about 16 rows at any size, so that the tables never run out of candidates.
    """
    bits = min(max(round(math.log2(rows)) - 4, 1), MAX_BITS)
    return make_configs(CONFIGS, overrides, **{"bits": bits} | changes)


def config_fields(configs: Mapping[str, HashConfig]) -> dict[str, dict[str, Any]]:
    """How the hashed contenders hash, for a report."""
    return {name: dataclasses.asdict(config) for name, config in configs.items()}


def parse_pairs(texts: Sequence[str]) -> dict[str, str]:
    """Values by name, of flags of the form ``NAME=VALUE``.

    Raises:
        ValueError: one has another form.
    """
    for text in texts:
        if "=" not in text:
            raise ValueError(f"got {text!r}, wanted NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


def _value(text: str) -> Any:
    """A number, or a word as it stands."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def make_factories(
    configs: Mapping[str, HashConfig], frequencies: Tensor
) -> dict[str, HeadFactory]:
    """What makes each contender.

    Args:
        configs: of :func:`make_configs`.
        frequencies: how often each class is the label, (N,).
    """
    return {
        "dense": DenseHead,
        "dense_onednn": OnednnHead,
        "chunked": ChunkedHead,
        "adaptive": lambda d, n: AdaptiveHead(d, n, frequencies),
        "sampled_1000": lambda d, n: SampledHead(d, n, negatives=1000),
        "sampled_4000": lambda d, n: SampledHead(d, n, negatives=4000),
        "sampled_1000_half_log_q": lambda d, n: SampledHead(d, n, negatives=1000, log_q=0.5),
        "sampled_4000_half_log_q": lambda d, n: SampledHead(d, n, negatives=4000, log_q=0.5),
        "sampled_1000_log_q": lambda d, n: SampledHead(d, n, negatives=1000, log_q=1.0),
        "sampled_4000_log_q": lambda d, n: SampledHead(d, n, negatives=4000, log_q=1.0),
        "hashed": lambda d, n: HashedHead(d, n, configs["hashed"]),
        "hashed_shared": lambda d, n: HashedHead(d, n, configs["hashed_shared"]),
    }


def available(names: Sequence[str], *, single_label: bool = True) -> list[str]:
    """The contenders that this torch has and that can learn such data; says what is left out."""
    left_out: dict[str, str] = {}
    if not hasattr(F, "linear_cross_entropy"):
        left_out["chunked"] = f"torch {torch.__version__} has no linear_cross_entropy"
    if not single_label:
        reason = "it takes one label a sample"
        left_out = {"chunked": reason, "adaptive": reason} | left_out
    for name in names:
        if name in left_out:
            print(f"{name} is left out: {left_out[name]}", file=sys.stderr)
    return [name for name in names if name not in left_out]
