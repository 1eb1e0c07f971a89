"""What a transformer's feed-forward block costs at batch 1, dense and at its active neurons alone.

Forward only, in float32: y = W' relu(W x + b) + b', with --neurons rows of --dim in W. At batch 1
the time is that of reading the weights, 512 MB at the default sizes. hashdl.HashFeedForward finds
active rows of W in its tables, and reads these and their columns of W'; a contender a share of
--shares. Calls go round several inputs, so that what one has met is not all in a cache for the
next; contenders take turns in rounds, and figures are medians. Layers that no longer learn are
hashed as docs/families.md advises: by k-means in one table, of which so many buckets are probed
that they hold about two candidates for each active row. --config changes it.

    python benchmarks/feed_forward.py --json feed_forward.json
    python benchmarks/feed_forward.py --dim 2048 --neurons 8192 --shares 0.05 --batch 4

Rows read are those of W whose weights were read: with selection "exact" candidates, too, that did
not become active. Columns read are those of W'. Both are distinct ones of a batch. Bytes are of
rows, columns, hash functions and sketches, as a share of both dense weights.

How far outputs are from the dense ones depends on the weights, and time hardly does; nothing here
is trained, so the errors say what hashing does to weights such as these, and no more:

- --weights clusters, the default: rows have one of some directions each beside as much noise, and
  an input is a sum of four of these directions, of random weights, and noise. Biases are such that
  a share of --firing of the neurons is above 0, which mostly are rows of the input's directions.
  That is what hashing is for: few neurons fire, and rows that do point where the input does.
- --weights random: independent Gaussians, as layers are drawn. As many neurons fire, but their rows
  are hardly nearer to the input than any others (the cosine is about 2 / sqrt(d)), so that hashing
  finds little more of them than reading as many rows blindly would: errors are near 1.

The relative error is |y - y_dense| / |y_dense|, a mean over samples, with b' = 0. Beside it stands
that of as many neurons with the largest outputs, the best that can be hoped for: what is above it
is what the tables miss. With fewer active neurons than fire, both are large. "energy" is the share
of the squared outputs of the hidden layer that active ones hold.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# For "python benchmarks/feed_forward.py" as well as "python -m benchmarks.feed_forward".
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    Report,
    StopWanted,
    interleave,
    make_parser,
    new_report,
    positive,
    run_benchmark,
)
from benchmarks.kernels import CallTimer
from benchmarks.layers import config_fields, make_configs
from benchmarks.steps import add_config_flag
from hashdl import HashConfig
from hashdl.huge_pages import prefer_huge_pages
from hashdl.nn import HashFeedForward

_POOL = 16  # inputs that calls go round
_MET = 4  # directions of an input
_SAMPLE = 64  # inputs that biases follow from
_CANDIDATES = 2  # rows ranked for each active one
_SHOWN = 512  # inputs that a layer has seen; a balanced one needs more than d


def share(text: str) -> float:
    """A flag's value above 0 and below 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"got {text}, wanted a share above 0 and below 1")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = make_parser(__doc__, repeat=15)
    block = parser.add_argument_group("the block")
    block.add_argument("--dim", type=positive, default=4096, help="d (default: 4096)")
    block.add_argument("--neurons", type=positive, default=16_384, help="N (default: 16384)")
    block.add_argument("--batch", type=positive, default=1, help="B (default: 1)")
    block.add_argument(
        "--shares",
        type=share,
        nargs="+",
        default=[0.01, 0.02, 0.05, 0.1],
        help="of the neurons that are active (default: .01 .02 .05 .1)",
    )
    block.add_argument(
        "--weights",
        choices=("clusters", "random"),
        default="clusters",
        help="what weights and inputs are: see above (default: clusters)",
    )
    block.add_argument(
        "--firing", type=share, default=0.02, help="neurons above 0, a share (default: .02)"
    )
    add_config_flag(parser)
    return parser


class Inputs:
    """Rows of a block and inputs that meet them.

    Args:
        args: the flags.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.N, self.d, self.random = args.neurons, args.dim, args.weights == "random"
        self._generator = torch.Generator().manual_seed(args.seed)
        # An input meets four directions, and rows of these are as many as are to fire.
        self._directions = self.randn(max(round(_MET / args.firing), _MET), self.d)

    def randn(self, *shape: int) -> Tensor:
        """Of the same generator."""
        return torch.randn(*shape, generator=self._generator)

    def rows(self) -> Tensor:
        """(N, d), of length about 1."""
        rows = self.randn(self.N, self.d).div_(math.sqrt(self.d))
        if self.random:
            return rows
        which = torch.arange(self.N) % len(self._directions)
        for some, of_them in zip(rows.split(1024), which.split(1024), strict=True):
            some.add_(self._directions[of_them], alpha=1 / math.sqrt(self.d))
        return rows.div_(math.sqrt(2))

    def draw(self, count: int) -> Tensor:
        """Inputs (count, d)."""
        noise = self.randn(count, self.d)
        if self.random:
            return noise
        met = torch.rand(count, len(self._directions), generator=self._generator).topk(_MET, 1)
        weights = torch.rand(count, _MET, generator=self._generator) + 0.5
        mixed = torch.zeros(count, len(self._directions)).scatter_(1, met.indices, weights)
        return noise.add_(mixed @ self._directions)


class Dense(nn.Module):
    """The block as torch has it.

    Args:
        inputs: where rows come from.
        firing: share of the neurons that are above 0.
    """

    def __init__(self, inputs: Inputs, firing: float) -> None:
        super().__init__()
        d, N = inputs.d, inputs.N
        self.up, self.down = nn.Linear(d, N, device="meta"), nn.Linear(N, d, device="meta")
        self.up.weight = nn.Parameter(prefer_huge_pages(inputs.rows(), now=True))
        z = inputs.draw(_SAMPLE) @ self.up.weight.detach().t()
        fewest = max(round(firing * z.numel()), 1)
        threshold = z.flatten().topk(fewest).values[-1]
        self.up.bias = nn.Parameter(torch.full((N,), -float(threshold)))
        down = inputs.randn(d, N).div_(math.sqrt(N))
        self.down.weight = nn.Parameter(prefer_huge_pages(down, now=True))
        self.down.bias = nn.Parameter(torch.zeros(d))

    def hidden(self, x: Tensor) -> Tensor:
        """(B, N)."""
        return F.relu(self.up(x))

    def forward(self, x: Tensor) -> Tensor:
        """(B, d)."""
        y: Tensor = self.down(self.hidden(x))
        return y


def configs_of(args: argparse.Namespace) -> dict[str, HashConfig]:
    """How each hashed contender hashes, by its name: see the top."""
    configs: dict[str, HashConfig] = {}
    for active in args.shares:
        base = HashConfig(active=active, family="kmeans", tables=1, cap=args.neurons)
        C = _CANDIDATES * base.sizes(args.neurons).A
        buckets = 2 ** base.sizes(args.neurons).K
        probes = min(math.ceil(C * buckets / args.neurons), buckets)
        base = base.replace(candidates=C, probes=probes)
        configs |= make_configs({f"hashed_{active:g}": base}, args.config)
    return configs


def hash_block(
    dense: Dense, config: HashConfig, inputs: Inputs, like: HashFeedForward | None
) -> HashFeedForward:
    """The dense block, hashed; the weight of ``like``'s columns is its own, too."""
    block = HashFeedForward.from_linears(dense.up, dense.down, nn.ReLU(), config=config).eval()
    if like is not None:
        block.down = like.down
    block.hashed.calibrate(inputs.draw(2 * inputs.d if config.balances(inputs.d) else _SHOWN))
    return block


def reads(block: HashFeedForward, x: Tensor) -> dict[str, float]:
    """Distinct rows and columns that a batch x (B, d) reads, and bytes as a share of dense ones."""
    layer, tables = block.hashed, block.hashed.tables
    N, d, active = layer.out_features, layer.in_features, block.hashed.active(x)
    if tables is None:  # every row is active
        return {"rows_read": N, "columns_read": N, "bytes_share": 1.0}
    candidates = tables.lookup(x)
    read = candidates if layer.config.selection == "exact" else active
    rows, columns, ranked = (_distinct(ids) for ids in (read, active, candidates))
    functions = tables.query_functions, tables.query_sketch_planes, tables.maps[1]
    moved = layer.weight.itemsize * d * (rows + columns)
    moved += sum(some.nbytes for some in functions)
    moved += ranked * tables.sketches.nbytes // N
    dense = 2 * layer.weight.nbytes
    return {"rows_read": rows, "columns_read": columns, "bytes_share": moved / dense}


def _distinct(ids: Tensor) -> int:
    return len(ids[ids >= 0].unique())


def errors(dense: Dense, block: HashFeedForward, x: Tensor) -> dict[str, float]:
    """How near a block's outputs are to the dense ones for inputs x (B, d): see the top."""
    h, wanted, got = dense.hidden(x), dense(x), block(x)
    active = block.hashed.active(x)
    largest = h.topk(active.shape[1], dim=1)
    best = dense.down(torch.zeros_like(h).scatter_(1, largest.indices, largest.values))
    held = h.gather(1, active.clamp_min(0).long()).masked_fill(active < 0, 0)
    return {
        "relative_error": _relative(got, wanted),
        "relative_error_of_largest": _relative(best, wanted),
        "energy": float((held.square().sum(1) / h.square().sum(1)).nan_to_num(1).mean()),
    }


def _relative(got: Tensor, wanted: Tensor) -> float:
    """Mean relative error; 0 of outputs 0."""
    error, length = (got - wanted).norm(dim=1), wanted.norm(dim=1)
    return float((error / length.clamp_min(1e-30)).mean())


@torch.no_grad()
def measure(args: argparse.Namespace, stop: StopWanted) -> Report:
    """All contenders."""
    args.shares = sorted(set(args.shares))
    configs = configs_of(args)
    report = new_report("feed_forward", args, configs=config_fields(configs))
    inputs = Inputs(args)
    dense = Dense(inputs, args.firing).eval()
    pool = [inputs.draw(args.batch) for _ in range(_POOL)]
    blocks: dict[str, HashFeedForward] = {}
    for name, config in configs.items():
        like = next(iter(blocks.values()), None)
        blocks[name] = hash_block(dense, config, inputs, like)
    contenders: dict[str, dict[str, Any]] = {"dense": _dense_figures(dense, pool)}
    for name, block in blocks.items():
        read = [reads(block, x) for x in pool]
        means = {key: statistics.fmean(one[key] for one in read) for key in read[0]}
        contenders[name] = means | errors(dense, block, torch.cat(pool))
    modules: dict[str, nn.Module] = {"dense": dense, **blocks}
    measures: dict[str, Callable[[], float]] = {
        name: CallTimer([lambda x=x, module=module: module(x) for x in pool]).milliseconds  # type: ignore[misc]
        for name, module in modules.items()
    }
    rounds = interleave(measures, args.repeat, stop, f"{args.dim:,} x {args.neurons:,}")
    times = {name: statistics.median(values) for name, values in rounds.items()}
    for name, figures in contenders.items():
        timed = {"forward_ms": times[name], "vs_dense": times[name] / times["dense"]}
        contenders[name] = timed | figures | {"rounds_ms": rounds[name]}
    report["contenders"] = contenders
    return report


def _dense_figures(dense: Dense, pool: Sequence[Tensor]) -> dict[str, float]:
    """What is read of the dense block, and how many of its neurons are above 0."""
    N = dense.up.out_features
    firing = statistics.fmean(float((dense.hidden(x) > 0).float().mean()) for x in pool)
    return {"rows_read": N, "columns_read": N, "bytes_share": 1.0, "firing": firing}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    return run_benchmark(build_parser(), measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
