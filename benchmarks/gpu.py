"""Training steps of huge output layers and the kernels of this package on a GPU.

Every contender trains the same layer on the same inputs: dense logits with cross_entropy, chunked
linear cross-entropy, both with fused AdamW over all rows, and the hashed layer with Adam over the
rows touched, step by step and replayed from a CUDA graph. Weights and the states of Adam are
bfloat16. Times are of CUDA events over steps, rehashing included, once the layers' planes are
balanced; peaks are those of torch's allocator. Beside them, how long the ten best of all rows take
to find, for a batch and for one sample, from how many rows on hashing pays, which parts of a hashed
step its kernels belong to (those of the backward pass to none), and how kernels compare with the
bandwidth of a copy.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --device cpu --rows 20000 --json gpu.json
"""

from __future__ import annotations

import argparse
import datetime
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

# For "python benchmarks/gpu.py" as well as "python -m benchmarks.gpu".
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    Report,
    StopWanted,
    crossing,
    make_parser,
    new_report,
    positive,
    run_benchmark,
)
from benchmarks.layers import CONFIGS
from hashdl import HashSoftmaxWithLoss, ops, optim
from hashdl.tables import HashTables
from hashdl.training.measure import parts_of

#: Something to time.
Step = Callable[[], object]

_WARM_UP, _KERNEL_RUNS, _BATCHES, _BEST = 3, 20, 8, 10
# Steps before those that are timed: tables come to be in them, and their planes are balanced.
_STEPS_BEFORE = 30
# Samples whose logits a chunked loss holds at once: fewer read and write the weight's gradient more
# often than they save.
_CHUNKED_SAMPLES = 256


class Contender(NamedTuple):
    """A layer under test.

    Attributes:
        train: a training step on inputs and labels.
        find: the ten best rows of inputs; None: as another one's.
    """

    train: Callable[[Tensor, Tensor], object]
    find: Callable[[Tensor], object] | None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = make_parser(__doc__, repeat=5)
    made.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="(default: cuda)")
    made.add_argument("--dim", type=positive, default=256, help="d (default: 256)")
    made.add_argument("--batch", type=positive, default=1024, help="B (default: 1024)")
    made.add_argument("--steps", type=positive, default=20, help="steps a round (default: 20)")
    made.add_argument(
        "--rows",
        type=positive,
        nargs="+",
        default=[10**4, 3 * 10**4, 10**5, 10**6, 10**7],
        help="N of the layers, ascending; kernels meet the last but one's rows "
        "(default: 1e4 3e4 1e5 1e6 1e7)",
    )
    return made


def milliseconds(run: Step, times: int, device: torch.device) -> float:
    """Mean time of some runs, by the device's own clock where it has one."""
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(times):
            run()
        return (time.perf_counter() - begin) * 1e3 / times
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(times):
        run()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / times


# ---- steps -------------------------------------------------------------------------------------


class ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of x W^T without all logits at once.

    Gradients are made with the loss, of some samples after the other. Torch's linear_cross_entropy
    (2.13 and later) does the same in more passes over the logits: here they are written once, read
    and written by one softmax, and read by two products.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        """The loss; keeps both gradients."""
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
        losses = []
        for first in range(0, len(x), _CHUNKED_SAMPLES):
            part = slice(first, first + _CHUNKED_SAMPLES)
            grad_z = torch.softmax(x[part] @ weight.t(), 1)
            labels = target[part].unsqueeze(1)
            losses.append(grad_z.gather(1, labels).float().log().neg())
            grad_z.scatter_add_(1, labels, grad_z.new_full((), -1.0).expand_as(labels))
            torch.mm(grad_z, weight, out=grad_x[part])
            grad_weight.addmm_(grad_z.t(), x[part], alpha=1 / len(x))
        ctx.save_for_backward(grad_x.div_(len(x)), grad_weight)
        return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx: Any, *grad_loss: Tensor) -> tuple[Tensor, Tensor, None]:
        """Both gradients, taken as those of the loss itself."""
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x, grad_weight, None


def _dense(N: int, args: argparse.Namespace, chunked: bool) -> Contender:
    weight = nn.Parameter(_weight(N, args))
    optimizer = torch.optim.AdamW([weight], lr=1e-3, fused=True)

    def step(x: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = (
            ChunkedCrossEntropy.apply(x, weight, target)
            if chunked
            else F.cross_entropy(x @ weight.t(), target)
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return Contender(step, None if chunked else lambda x: (x @ weight.t()).topk(_BEST))


def _hashed_layer(
    N: int, args: argparse.Namespace, *, capturable: bool = False
) -> tuple[HashSoftmaxWithLoss, torch.optim.Optimizer]:
    dtype = torch.bfloat16
    layer = HashSoftmaxWithLoss(
        args.dim, N, config=CONFIGS["hashed"], device=args.device, dtype=dtype
    )
    parameters = layer.parameters()
    return layer, optim.Adam(parameters, lr=1e-3, state_dtype=dtype, capturable=capturable)


def _hashed(N: int, args: argparse.Namespace) -> Contender:
    layer, optimizer = _hashed_layer(N, args)

    def step(x: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = layer(x, target).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return Contender(step, lambda x: layer.eval().topk(x, _BEST))


def _replayed(N: int, args: argparse.Namespace) -> Contender:
    """The hashed layer's steps as replays of one; what a schedule makes due, between them."""
    layer, optimizer = _hashed_layer(N, args, capturable=True)
    linear, tables = layer.linear, layer.linear.tables
    assert isinstance(tables, HashTables)
    x = torch.randn(args.batch, args.dim, device=args.device, dtype=torch.bfloat16)
    target = torch.randint(N, (args.batch,), device=args.device)

    def step() -> None:
        layer(x.detach().requires_grad_(), target).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            step()
        while not tables.settled:  # no replay lets them see a query
            step()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        step()

    def replay(inputs: Tensor, targets: Tensor) -> None:
        x.copy_(inputs.detach())
        target.copy_(targets)
        graph.replay()
        tables.refresh(linear.weight, linear.bias, training=True)

    return Contender(replay, None)


def _weight(N: int, args: argparse.Namespace) -> Tensor:
    drawn: Tensor = torch.randn(N, args.dim, device=args.device, dtype=torch.bfloat16)
    return drawn.mul_(float(args.dim) ** -0.5)


def contenders(N: int, args: argparse.Namespace) -> dict[str, Callable[[], Contender]]:
    """What makes each contender, by name."""
    made = {
        "dense": lambda: _dense(N, args, chunked=False),
        "chunked": lambda: _dense(N, args, chunked=True),
        "hashed": lambda: _hashed(N, args),
    }
    if args.device == "cuda":
        made["replayed"] = lambda: _replayed(N, args)
    return made


def measure_layer(
    make: Callable[[], Contender], N: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Median milliseconds a step and what else is told of it; or that memory is too small."""
    device = torch.device(args.device)
    cuda = device.type == "cuda"
    if cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        layer = make()
        x = torch.randn(_BATCHES, args.batch, args.dim, device=device, dtype=torch.bfloat16)
        targets = torch.randint(N, (_BATCHES, args.batch), device=device)
        batches = itertools.cycle(zip(x, targets, strict=True))

        def step() -> None:
            inputs, target = next(batches)
            layer.train(inputs.detach().requires_grad_(), target)

        milliseconds(step, _STEPS_BEFORE, device)
        times = [milliseconds(step, args.steps, device) for _ in range(args.repeat)]
        figures: dict[str, Any] = {"step_ms": statistics.median(times)}
        if cuda:
            figures["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
        parts = parts_of(lambda: milliseconds(step, args.steps, device), args.steps, device)
        if parts:
            figures["parts_ms"] = parts
        if layer.find is not None:
            figures["find_ms"] = _find_ms(layer.find, x[0], args, device)
            figures["find_one_ms"] = _find_ms(layer.find, x[0, :1], args, device)
    except torch.OutOfMemoryError:
        return {"error": "out of memory"}
    return figures


@torch.no_grad()
def _find_ms(
    find: Callable[[Tensor], object], x: Tensor, args: argparse.Namespace, device: torch.device
) -> float:
    milliseconds(lambda: find(x), _WARM_UP, device)
    return milliseconds(lambda: find(x), args.steps, device)


# ---- kernels -----------------------------------------------------------------------------------


class KernelCall(NamedTuple):
    """What is timed of kernels.

    Attributes:
        run: the call.
        moved: bytes that it must move.
        parts: likewise those of single kernels of it, by their names; timed on a GPU.
    """

    run: Step
    moved: float
    parts: dict[str, float] | None = None


def kernel_calls(N: int, args: argparse.Namespace) -> dict[str, KernelCall]:
    """Kernels that only move memory, and the bytes that they must move."""
    B, A, d = args.batch, min(200, N), args.dim
    generator = torch.Generator().manual_seed(args.seed)
    weight, other = _weight(N, args), _weight(N, args)
    x = torch.randn(B, d, device=args.device, dtype=torch.bfloat16)
    rows = torch.randint(N, (B, A), generator=generator).to(args.device, torch.int32)
    grad_z = torch.randn(B, A, device=args.device, dtype=torch.bfloat16)
    exp_avg, exp_avg_sq = (torch.zeros(N, d, device=args.device) for _ in range(2))
    U = int(rows.unique().numel())
    touched = rows.unique().to(torch.int32)
    grad = torch.randn(U, d, device=args.device, dtype=torch.bfloat16)
    row, pairs = 2 * d, B * A

    first = torch.ones((), device=args.device)

    def adam() -> None:
        ops.adam_rows_(weight, exp_avg, exp_avg_sq, touched, grad, lr=1e-6, step=first)

    given = min(pairs, N)  # rows that a gradient is written for, if it be 0
    return {
        "copy": KernelCall(lambda: other.copy_(weight), 2 * N * row),
        "gather_linear": KernelCall(
            lambda: ops.gather_linear(x, weight, None, rows), pairs * (row + 6) + B * row
        ),
        "gather_linear_backward": KernelCall(
            lambda: ops.gather_linear_backward(grad_z, x, weight, rows),
            pairs * (row + 14) + 2 * B * row + U * row,
            {
                "backward_input_kernel": pairs * (row + 6) + B * row,
                "backward_weight_kernel": pairs * 10 + B * row + given * (row + 10),
            },
        ),
        "adam_rows_": KernelCall(adam, U * (row * 3 + d * 16)),
    }


def _kernel_ms(call: Step, names: Sequence[str]) -> dict[str, float]:
    """Milliseconds a call that kernels of these names take on a GPU."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(_KERNEL_RUNS):
            call()
        torch.cuda.synchronize()
    events = profiler.key_averages()
    return {
        name: sum(event.self_device_time_total for event in events if name in event.key)
        / (1e3 * _KERNEL_RUNS)
        for name in names
    }


def measure_kernels(N: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds, gigabytes a second, and their share of a copy's."""
    device = torch.device(args.device)
    times: dict[str, tuple[float, float]] = {}
    for name, call in kernel_calls(N, args).items():
        milliseconds(call.run, _WARM_UP, device)
        times[name] = milliseconds(call.run, _KERNEL_RUNS, device), call.moved
        if call.parts and device.type == "cuda":
            for part, ms in _kernel_ms(call.run, list(call.parts)).items():
                times[part] = ms, call.parts[part]
    copy_ms, copied = times["copy"]
    return {
        name: {
            "mb": moved / 1e6,
            "ms": ms,
            "gb_a_second": moved / ms / 1e6,
            "share_of_copy": (moved / ms) / (copied / copy_ms),
        }
        for name, (ms, moved) in times.items()
    }


# ---- the script --------------------------------------------------------------------------------


def measure(args: argparse.Namespace, stop: StopWanted) -> Report:
    """The report: layers by contender and N, and kernels at the last N but one."""
    if args.device == "cuda":
        device, today = torch.cuda.get_device_name(), datetime.datetime.now(datetime.timezone.utc)
        versions = {"cuda": torch.version.cuda, "date": f"{today:%Y-%m-%d}"}
        report = new_report("gpu", args, gpu=device, **versions)
    else:
        report = new_report("gpu", args)
    torch.manual_seed(args.seed)
    for N in args.rows:
        for name, make in contenders(N, args).items():
            if stop():
                return report
            by_rows = report["contenders"].setdefault(name, {"by_rows": {}})["by_rows"]
            by_rows[str(N)] = measure_layer(make, N, args)
    compare(report["contenders"])
    report["kernels"] = measure_kernels(args.rows[-2:][0], args)
    return report


# The ratio to the dense layer of each figure; and, of times, from where on it is below 1.
_RATIOS = {
    "step_ms": ("vs_dense", "break_even_rows"),
    "peak_mb": ("peak_vs_dense", None),
    "find_ms": ("find_vs_dense", "find_break_even_rows"),
    "find_one_ms": ("find_one_vs_dense", "find_one_break_even_rows"),
}


def compare(contenders: dict[str, Any]) -> None:
    """Adds how the others compare with the dense layer."""
    dense = contenders["dense"]["by_rows"]
    for name, result in contenders.items():
        for key, (ratio, rows) in _RATIOS.items():
            for N, figures in result["by_rows"].items():
                if key in figures and key in dense[N]:
                    figures[ratio] = figures[key] / dense[N][key]
            known = any(ratio in figures for figures in result["by_rows"].values())
            if rows and known and name != "dense":
                result[rows] = crossing(result["by_rows"], ratio)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    return run_benchmark(parser(), measure, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
