"""How near each CPU kernel comes to what the machine's memory and arithmetic allow.

For each kernel: the bytes that a call must move (each operand once, each distinct row once) and its
floating-point operations; the time these would take at the measured bandwidth of a large copy
(bytes read and written) and at the measured rate of a large float32 matrix product, the longer of
the two being the ideal; and the achieved share, ideal over measured time. The same once more at the
bandwidth of reading random rows of this size, by torch's embedding bag over the same weight: a row
here and there does not come at the rate of a copy. Weight and states lie in large pages, like those
of layers. Calls go round several inputs, so that rows do not stay in cache. Kernels and yardsticks
are timed in turn, in rounds; figures are medians. A share above 1 means that what one call left in
cache served the next.

    python benchmarks/kernels.py --rows 670000 --dim 128 --batch 128 --json kernels.json
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

# For "python benchmarks/kernels.py" as well as "python -m benchmarks.kernels".
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
from benchmarks.layers import config_fields, step_configs
from benchmarks.steps import Inputs, add_config_flag, add_input_flags
from hashdl import ops
from hashdl.config import HashConfig
from hashdl.huge_pages import prefer_huge_pages
from hashdl.tables import HashTables

_POOL = 8  # inputs that calls go round
_BLOCK_SECONDS = 0.05  # calls are timed in blocks of about this length
_ID, _FLOAT = 4, 4  # bytes of an int32 row id and of a float32
_PACKED_ROWS = 1 << 11  # rows whose signs are packed at once, about as in a rehash
# Multiplications, additions, divisions and roots that Adam takes for one element.
_ADAM_FLOPS = 12


@dataclass(frozen=True)
class Kernel:
    """One kernel's calls, and what each costs.

    Attributes:
        calls: the same kernel on several inputs.
        bytes: that a call must move, mean over the calls.
        flops: floating-point operations of a call.
    """

    calls: Sequence[Callable[[], object]]
    bytes: float
    flops: float = 0.0

    def ideal_ms(self, gigabytes: float, gigaflops: float) -> float:
        """Milliseconds at a bandwidth (GB/s) and an arithmetic rate (GFLOP/s)."""
        return max(self.bytes / gigabytes, self.flops / gigaflops) / 1e6


@dataclass(frozen=True)
class Query:
    """One batch on its way through the kernels.

    Attributes:
        x: hidden inputs (B, d).
        labels: int32 (B, 1).
        buckets: int32 (B, L, P), to probe.
        candidates: int32 (B, C).
        hits: int32 (B, C).
        scores: logits of the candidates, (B, C).
        rows: the active rows, int32 (B, 1 + A).
        grad: gradient of their logits, (B, 1 + A).
        touched: distinct ones, int32 (U,).
    """

    x: Tensor
    labels: Tensor
    buckets: Tensor
    candidates: Tensor
    hits: Tensor
    scores: Tensor
    rows: Tensor
    grad: Tensor
    touched: Tensor


class Bench:
    """A layer's rows, their tables, and some batches.

    Args:
        args: the flags.
        config: how rows are hashed.
    """

    def __init__(self, args: argparse.Namespace, config: HashConfig) -> None:
        self.config, self.N, self.d = config, args.rows, args.dim
        inputs = Inputs(args.rows, args.dim, args.batch, args.labels, args.seed)
        linear = torch.nn.Linear(args.dim, args.rows)
        self.weight = prefer_huge_pages(linear.weight.detach(), now=True)
        self.bias = linear.bias.detach()
        inputs.add_clusters(self.weight)
        self.tables = HashTables(args.rows, args.dim, config)
        self.sizes = self.tables.sizes
        batches = [(hidden.detach(), targets) for hidden, targets in inputs.batches(_POOL)]
        for x, _ in batches:
            self.tables.observe(x, training=True)
        self.tables.refresh(self.weight, self.bias, training=True)
        self.queries = [self._query(x, targets) for x, targets in batches]

    def _query(self, x: Tensor, targets: Tensor) -> Query:
        buckets = self.tables.probe(x)
        candidates, hits = self._look_up(buckets)
        scores = ops.gather_linear(x, self.weight, self.bias, candidates)
        labels = targets.to(torch.int32).unsqueeze(1)
        rows = self._select(candidates, scores, labels)
        grad, touched = torch.randn(rows.shape), rows[rows >= 0].unique()
        return Query(x, labels, buckets, candidates, hits, scores, rows, grad, touched)

    def _look_up(self, buckets: Tensor) -> tuple[Tensor, Tensor]:
        return ops.lookup(
            buckets,
            self.tables.offsets,
            self.tables.rows,
            step=self.tables.step,
            **self.tables.lookup_sizes(),
        )

    def _select(self, candidates: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        return ops.select(
            candidates,
            scores,
            labels,
            active=self.sizes.A,
            random=self.sizes.R,
            n_rows=self.N,
            seed=self.config.seed,
            step=self.tables.step,
        )

    def _each(
        self,
        call: Callable[[Query], object],
        bytes: Callable[[Query], float],
        flops: Callable[[Query], float] = lambda query: 0.0,
    ) -> Kernel:
        """A kernel called with each batch."""
        return Kernel(
            [lambda query=query: call(query) for query in self.queries],  # type: ignore[misc]
            statistics.fmean(map(bytes, self.queries)),
            statistics.fmean(map(flops, self.queries)),
        )

    def kernels(self) -> dict[str, Kernel]:
        """All of them, by name."""
        return {
            "gathered forward": self.forward(),
            "gathered backward": self.backward(),
            "row Adam": self.row_adam(),
            "table build": self.table_build(),
            "look-up": self.look_up(),
            "select": self.select(),
            "find active": self.find_active(),
            "pack": self.pack(),
        }

    def row_reads(self) -> Kernel:
        """Torch's embedding bag of random rows, as many a sample as are active."""
        B, A = self.queries[0].rows.shape
        generator = torch.Generator().manual_seed(0)
        bags = [torch.randint(self.N, (B, A), generator=generator) for _ in range(_POOL)]
        return Kernel(
            [
                lambda bag=bag: F.embedding_bag(bag, self.weight, mode="sum")  # type: ignore[misc]
                for bag in bags
            ],
            float(_FLOAT * (B * A + B) * self.d),
        )

    def forward(self) -> Kernel:
        """Reads distinct rows and biases, inputs and ids; writes logits."""
        return self._each(
            lambda q: ops.gather_linear(q.x, self.weight, self.bias, q.rows),
            self._pairs_bytes,
            lambda q: 2.0 * int((q.rows >= 0).sum()) * self.d,
        )

    def backward(self) -> Kernel:
        """As forward; writes gradients of inputs, distinct rows and biases, and these rows' ids."""
        return self._each(
            lambda q: ops.gather_linear_backward(q.grad, q.x, self.weight, q.rows),
            lambda q: (
                self._pairs_bytes(q)
                + _FLOAT * q.x.numel()
                + len(q.touched) * (_FLOAT * self.d + _ID)
            ),
            lambda q: 4.0 * int((q.rows >= 0).sum()) * self.d,
        )

    def _pairs_bytes(self, query: Query) -> float:
        """Distinct rows with a bias each, inputs, and an id and a value for each active row."""
        pairs = query.rows.numel() * (_FLOAT + _ID)
        return float(_FLOAT * (len(query.touched) * (self.d + 1) + query.x.numel()) + pairs)

    def row_adam(self) -> Kernel:
        """Reads rows, gradients and two states; writes rows and states."""
        first, second = (prefer_huge_pages(torch.empty_like(self.weight)).zero_() for _ in range(2))
        gradient = torch.randn(max(len(q.touched) for q in self.queries), self.d)
        step = torch.ones(())
        return self._each(
            lambda q: ops.adam_rows_(
                self.weight,
                first,
                second,
                q.touched,
                gradient[: len(q.touched)],
                lr=1e-3,
                step=step,
            ),
            lambda q: len(q.touched) * (7.0 * _FLOAT * self.d + _ID),
            lambda q: float(_ADAM_FLOPS * len(q.touched) * self.d),
        )

    def table_build(self) -> Kernel:
        """Reads codes; writes offsets and rows."""
        moved = _ID * (2.0 * self.tables.codes.numel() + self.tables.offsets.numel())
        return Kernel([lambda: ops.build_tables(self.tables.codes, self.sizes.K)], moved)

    def look_up(self) -> Kernel:
        """Reads buckets, two offsets of each and its entries; writes candidates and hits.

        Entries are counted for the candidates that are kept.
        """
        return self._each(
            lambda q: self._look_up(q.buckets),
            lambda q: self._buckets_bytes(q) + _ID * 2.0 * q.candidates.numel(),
        )

    def _buckets_bytes(self, query: Query) -> float:
        """Buckets, two offsets of each, and the entries of candidates that are kept."""
        return float(_ID * (3 * query.buckets.numel() + int(query.hits.sum())))

    def select(self) -> Kernel:
        """Reads candidates, scores and labels; writes active rows."""
        return self._each(
            lambda q: self._select(q.candidates, q.scores, q.labels),
            lambda q: (
                _ID * (q.candidates.numel() + q.labels.numel() + q.rows.numel())
                + _FLOAT * q.scores.numel()
            ),
        )

    def find_active(self) -> Kernel:
        """Hash, look-up, scores, select and gathered forward, as a training step has it.

        Moves what look-up reads, inputs, labels, each distinct row that is scored, and the outputs.
        """
        return self._each(
            lambda q: self.tables.find_active(
                *(q.x, self.weight, self.bias, q.labels),
                active=self.sizes.A,
                random=self.sizes.R,
            ),
            lambda q: (
                self._buckets_bytes(q)
                + _ID * (q.labels.numel() + q.rows.numel())
                + _FLOAT * (q.x.numel() + q.rows.numel())
                + _FLOAT * len(self._scored(q).unique()) * (self.d + 1)
            ),
            lambda q: 2.0 * len(self._scored(q)) * self.d,
        )

    def _scored(self, query: Query) -> Tensor:
        """The rows whose outputs are computed, one for each pair with a sample."""
        pairs = query.rows
        if self.config.selection == "exact":  # all candidates; others are labels and draws
            drawn = torch.cat([pairs[:, :1], pairs[:, pairs.shape[1] - self.sizes.R :]], 1)
            pairs = torch.cat([query.candidates, drawn], 1)
        return pairs[pairs >= 0]

    def pack(self) -> Kernel:
        """Reads the projections of a chunk of rows; writes their codes."""
        bits, tables = self.sizes.K, self.sizes.L
        projections = torch.randn(min(self.N, _PACKED_ROWS), tables * bits)
        moved = _FLOAT * projections.numel() + _ID * len(projections) * tables
        return Kernel([lambda: ops.pack_signs(projections, bits)], moved)


# ---- measuring ---------------------------------------------------------------------------------


class CallTimer:
    """Times blocks of calls, going round a kernel's inputs.

    Args:
        calls: the same kernel on several inputs; each is called once now, to warm up.
    """

    def __init__(self, calls: Sequence[Callable[[], object]]) -> None:
        self._calls: Iterator[Callable[[], object]] = itertools.cycle(calls)
        self._block = len(calls)
        self.milliseconds()
        seconds = self.milliseconds() / 1000
        # Whole rounds, so that each input counts alike.
        rounds = max(round(_BLOCK_SECONDS / (seconds * len(calls))), 1)
        self._block = rounds * len(calls)

    def milliseconds(self) -> float:
        """Mean milliseconds of a call over one block."""
        calls = [next(self._calls) for _ in range(self._block)]
        began = time.perf_counter()
        for call in calls:
            call()
        return 1000 * (time.perf_counter() - began) / self._block


def make_yardsticks(copy_mb: int, sgemm_size: int) -> dict[str, Kernel]:
    """A copy that fills no cache, and a square float32 matrix product."""
    source = torch.ones(copy_mb * 1_000_000 // _FLOAT)
    target = torch.empty_like(source)
    a, b = torch.randn(2, sgemm_size, sgemm_size)
    out = torch.empty_like(a)
    return {
        "copy": Kernel([lambda: target.copy_(source)], 2.0 * _FLOAT * source.numel()),
        "sgemm": Kernel([lambda: torch.mm(a, b, out=out)], 0.0, 2.0 * sgemm_size**3),
    }


def measure(args: argparse.Namespace, stop: StopWanted) -> Report:
    """All kernels and the yardsticks."""
    configs = step_configs(args.rows, args.config)
    report = new_report("kernels", args, configs=config_fields(configs))
    bench = Bench(args, configs["hashed"])
    kernels = bench.kernels()
    yardsticks = make_yardsticks(args.copy_mb, args.sgemm_size) | {"row reads": bench.row_reads()}
    timers = {name: CallTimer(kernel.calls) for name, kernel in (yardsticks | kernels).items()}
    measures: dict[str, Callable[[], float]] = {
        name: timer.milliseconds for name, timer in timers.items()
    }
    rounds = interleave(measures, args.repeat, stop, f"{args.rows:,} rows")
    times = {name: statistics.median(values) for name, values in rounds.items()}
    copied, read = (yardsticks[name].bytes / times[name] / 1e6 for name in ("copy", "row reads"))
    gigaflops = yardsticks["sgemm"].flops / times["sgemm"] / 1e6
    report["machine"] |= {
        "copy_gb_per_s": copied,
        "row_reads_gb_per_s": read,
        "sgemm_gflop_per_s": gigaflops,
    }
    report["kernels"] = {
        name: figures(kernel, times[name], copied, read, gigaflops)
        for name, kernel in kernels.items()
    }
    return report


def figures(
    kernel: Kernel, milliseconds: float, copied: float, read: float, gigaflops: float
) -> dict[str, float]:
    """What the report says of a kernel.

    Args:
        kernel: which.
        milliseconds: that a call took.
        copied: gigabytes a second of a copy, read and written.
        read: gigabytes a second of random rows, read.
        gigaflops: of the matrix product.
    """
    ideal = kernel.ideal_ms(copied, gigaflops)
    return {
        "ms": milliseconds,
        "bytes": kernel.bytes,
        "flops": kernel.flops,
        "ideal_ms": ideal,
        "share": ideal / milliseconds,
        "share_of_row_reads": kernel.ideal_ms(read, gigaflops) / milliseconds,
    }


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = make_parser(__doc__, repeat=9)
    parser.add_argument("--rows", type=positive, default=670_000, help="N (default: 670000)")
    parser.add_argument("--copy-mb", type=positive, default=512, help="copied (default: 512)")
    parser.add_argument(
        "--sgemm-size", type=positive, default=2048, help="of the product (default: 2048)"
    )
    add_input_flags(parser)
    add_config_flag(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    return run_benchmark(build_parser(), measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
