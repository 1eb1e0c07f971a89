"""Recall at k against queries a second: hashdl, every row, faiss and hnswlib on one matrix.

Rows (w, b) are searched for the largest inner products with queries (x, 1). Half of the queries
prepare (hashdl's tune searches by them, once for each of --targets; the others need none), the
other half is asked, one at a time and --batch at once, everything in turns. Of each contender:
recall and milliseconds a query for every setting, seconds to build from the rows as they are (of
hashdl, all tables anew), and the memory of the index beside the matrix.

    python benchmarks/retrieval.py --matrix classifier.npz --json retrieval.json
    python benchmarks/retrieval.py --rows 20000 --dim 64 --contenders dense hashdl

A matrix file has arrays W (N, d), b (N,) if there is one, and queries (Q, d); without it, clustered
rows and queries are drawn. faiss (faiss-cpu) and hnswlib are left out where they are not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# For "python benchmarks/retrieval.py" as well as "python -m benchmarks.retrieval".
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    Report,
    StopWanted,
    interleave,
    make_parser,
    new_report,
    positive,
    run_benchmark,
    save,
)
from hashdl import HashLinear, metrics, tune
from hashdl.data import load_matrix
from hashdl.hashing import FAMILIES

# Queries that a timing asks one at a time.
_SINGLE = 200
_LEAST_EF, _MOST_EF = 16, 4096
# Of the graphs: links a row, and candidates while building.
_LINKS, _EF_CONSTRUCTION = 32, 100


@dataclass(frozen=True)
class Task:
    """What is searched.

    Attributes:
        linear: rows and biases.
        prepare: queries that may be looked at before (P, d).
        asked: queries that are asked (Q, d).
        truth: rows with the k largest outputs of these (Q, k).
    """

    linear: nn.Linear
    prepare: Tensor
    asked: Tensor
    truth: Tensor

    @property
    def k(self) -> int:
        """How many of the largest outputs count."""
        return self.truth.shape[1]

    def rows(self) -> np.ndarray[Any, Any]:
        """Rows (w, b) as the other libraries take them."""
        weight, bias = self.linear.weight.detach(), self.linear.bias
        last = weight.new_zeros(len(weight)) if bias is None else bias.detach()
        return torch.cat([weight, last[:, None]], 1).contiguous().numpy()


def with_one(x: Tensor) -> np.ndarray[Any, Any]:
    """Queries (x, 1)."""
    return F.pad(x, (0, 1), value=1.0).contiguous().numpy()


def effort(least: int, most: int) -> list[int]:
    """What is tried of a number that recall and time grow with: each by the root of 2 more.

    Examples:
        >>> effort(1, 6)
        [1, 2, 3, 4, 6]
    """
    steps = math.ceil(2 * math.log2(most / least))
    return sorted({min(round(least * 2 ** (i / 2)), most) for i in range(steps + 1)})


#: Rows (B, k) that a setting answers with.
Ask = Callable[[Tensor], Any]


class Contender(ABC):
    """One way to find the largest inner products.

    Args:
        task: what is searched.
        args: the flags.
    """

    def __init__(self, task: Task, args: argparse.Namespace) -> None:
        self.task, self.args = task, args

    @abstractmethod
    def build(self) -> None:
        """Make the index of the rows as they are: timed."""

    @abstractmethod
    def settings(self) -> dict[str, Ask]:
        """What is asked, by the name of the setting."""

    @abstractmethod
    def megabytes(self) -> float:
        """Memory of the index, the matrix itself not counted where it is not copied."""

    def rows_read(self, setting: str) -> float | None:
        """Share of the rows whose weights a query reads; None where it is not known."""
        return None


class Dense(Contender):
    """Every row: a product and torch.topk."""

    def build(self) -> None:
        """Nothing to build."""

    def settings(self) -> dict[str, Ask]:
        """One."""
        linear, k = self.task.linear, self.task.k
        return {"all rows": lambda x: F.linear(x, linear.weight, linear.bias).topk(k).indices}

    def megabytes(self) -> float:
        """None."""
        return 0.0

    def rows_read(self, setting: str) -> float:
        """All."""
        return 1.0


class Ivf(Contender):
    """faiss IVF-Flat by inner products, sqrt(N) lists four times over."""

    def build(self) -> None:
        """Train and add."""
        import faiss

        rows = self.task.rows()
        lists = min(round(4 * len(rows) ** 0.5), len(rows) // 39 + 1)  # faiss wants 39 rows a list
        quantizer = faiss.IndexFlatIP(rows.shape[1])
        self.index = faiss.IndexIVFFlat(quantizer, rows.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        self.index.train(rows)
        self.index.add(rows)

    def settings(self) -> dict[str, Ask]:
        """By lists probed."""
        # To all of them, with which it is exact.
        return {f"nprobe {n}": partial(self._ask, n) for n in effort(1, self.index.nlist)}

    def _ask(self, nprobe: int, x: Tensor) -> Any:
        self.index.nprobe = nprobe
        return self.index.search(with_one(x), self.task.k)[1]

    def megabytes(self) -> float:
        """As written to a file."""
        import faiss

        return len(faiss.serialize_index(self.index)) / 1e6


class FaissHnsw(Contender):
    """faiss HNSW by inner products."""

    def build(self) -> None:
        """Add row by row."""
        import faiss

        rows = self.task.rows()
        self.index = faiss.IndexHNSWFlat(rows.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = _EF_CONSTRUCTION
        self.index.add(rows)

    def settings(self) -> dict[str, Ask]:
        """By candidates kept in a search."""
        return {f"ef {ef}": partial(self._ask, ef) for ef in effort(_LEAST_EF, _MOST_EF)}

    def _ask(self, ef: int, x: Tensor) -> Any:
        self.index.hnsw.efSearch = ef
        return self.index.search(with_one(x), self.task.k)[1]

    def megabytes(self) -> float:
        """As written to a file."""
        import faiss

        return len(faiss.serialize_index(self.index)) / 1e6


class Hnswlib(Contender):
    """hnswlib by inner products."""

    def build(self) -> None:
        """Add row by row, on all threads."""
        import hnswlib

        rows = self.task.rows()
        self.index = hnswlib.Index(space="ip", dim=rows.shape[1])
        self.index.init_index(len(rows), ef_construction=_EF_CONSTRUCTION, M=_LINKS // 2)
        self.index.set_num_threads(torch.get_num_threads())
        self.index.add_items(rows)

    def settings(self) -> dict[str, Ask]:
        """By candidates kept in a search."""
        return {f"ef {ef}": partial(self._ask, ef) for ef in effort(_LEAST_EF, _MOST_EF)}

    def _ask(self, ef: int, x: Tensor) -> Any:
        self.index.set_ef(ef)
        return self.index.knn_query(with_one(x), self.task.k)[0]

    def megabytes(self) -> float:
        """As written to a file."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            self.index.save_index(str(path))
            return path.stat().st_size / 1e6


class Hashdl(Contender):
    """What hashdl.tune finds for each target, by itself."""

    def __init__(self, task: Task, args: argparse.Namespace) -> None:
        self.layers: dict[str, HashLinear] = {}
        for target in args.targets:
            found = tune(
                *(task.linear, task.prepare),
                target_recall=target,
                k=task.k,
                families=args.families,
                seed=args.seed,
            )
            print(f"hashdl, target {target}\n{found}\n", file=sys.stderr)
            self.layers[f"tuned for {target:g}"] = found.layer
        super().__init__(task, args)

    def build(self) -> None:
        """All tables of the first layer, anew."""
        next(iter(self.layers.values())).rehash()

    def settings(self) -> dict[str, Ask]:
        """By target."""
        return {name: partial(self._ask, layer) for name, layer in self.layers.items()}

    def _ask(self, layer: HashLinear, x: Tensor) -> Tensor:
        return layer.topk(x, self.task.k)[1]

    def megabytes(self) -> float:
        """The largest layer's tables, asked once."""
        for ask in self.settings().values():
            ask(self.task.asked[:1])
        tables = (layer.tables for layer in self.layers.values())
        return max(0 if each is None else each.nbytes for each in tables) / 1e6

    def rows_read(self, setting: str) -> float:
        """As it counts itself."""
        return metrics.recall(self.layers[setting], self.task.asked, k=self.task.k).touched


CONTENDERS: dict[str, tuple[type[Contender], str | None]] = {
    "dense": (Dense, None),
    "faiss_ivf": (Ivf, "faiss"),
    "faiss_hnsw": (FaissHnsw, "faiss"),
    "hnswlib": (Hnswlib, "hnswlib"),
    "hashdl": (Hashdl, None),
}


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = make_parser(__doc__, repeat=3)
    parser.add_argument("--matrix", type=Path, metavar="FILE.npz", help="W, b, queries")
    parser.add_argument("--rows", type=positive, default=50_000, help="N without --matrix")
    parser.add_argument("--dim", type=positive, default=128, help="d without --matrix")
    parser.add_argument("--k", type=positive, default=10, help="outputs that count (default: 10)")
    parser.add_argument(
        "--batch", type=positive, default=256, help="queries at once (default: 256)"
    )
    parser.add_argument(
        "--targets", type=float, nargs="+", default=(0.9, 0.95, 0.99), help="recalls to tune for"
    )
    parser.add_argument(
        "--families", nargs="+", choices=sorted(FAMILIES), help="that tune tries (default: all)"
    )
    parser.add_argument(
        "--at", type=float, default=0.95, help="recall that is compared at (default: 0.95)"
    )
    parser.add_argument(
        "--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS)
    )
    return parser


def load_task(args: argparse.Namespace) -> Task:
    """The matrix, and its queries in two halves."""
    if args.matrix is None:
        linear, queries = _drawn(args.rows, args.dim, args.seed)
    else:
        linear, queries = load_matrix(args.matrix)
    order = torch.randperm(len(queries), generator=torch.Generator().manual_seed(args.seed))
    prepare, asked = queries[order[: len(order) // 2]], queries[order[len(order) // 2 :]]
    if args.k > linear.out_features:
        raise ValueError(f"--k: got {args.k} of {linear.out_features} rows, wanted at most as many")
    with torch.no_grad():
        truth = torch.cat([linear(x).topk(args.k).indices for x in asked.split(256)])
    return Task(linear, prepare, asked, truth)


def _drawn(rows: int, dim: int, seed: int) -> tuple[nn.Linear, Tensor]:
    """Rows and queries around common directions, of a falling spectrum."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    spectrum = torch.arange(1, dim + 1).float().pow(-0.5)
    centers = draw(max(rows // 100, 1), dim)
    weight, queries = (
        (centers[torch.randint(len(centers), (count,), generator=generator)] + draw(count, dim))
        * spectrum
        for count in (rows, 4096)
    )
    linear = nn.Linear(dim, rows, device="meta")
    linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(0.1 * draw(rows))
    return linear, queries


def measure(args: argparse.Namespace, stop: StopWanted) -> Report:
    """All contenders."""
    task = load_task(args)
    N, d = task.linear.weight.shape
    matrix = None if args.matrix is None else args.matrix.stem
    report = new_report("retrieval", args, matrix_rows=N, matrix_dim=d, matrix=matrix)
    asks: dict[tuple[str, str], Ask] = {}
    for name in args.contenders:
        make, package = CONTENDERS[name]
        if package is not None and importlib.util.find_spec(package) is None:
            print(f"{name} is left out: {package} is not installed", file=sys.stderr)
            continue
        if package == "faiss":
            _set_faiss_threads()
        contender = make(task, args)
        began = time.perf_counter()
        contender.build()
        seconds = time.perf_counter() - began
        settings = contender.settings()
        report["contenders"][name] = {
            "build_seconds": seconds,
            "index_mb": contender.megabytes(),
            "points": {
                setting: {"recall": recall_of(ask, task), "rows_read": contender.rows_read(setting)}
                for setting, ask in settings.items()
            },
        }
        asks |= {(name, setting): ask for setting, ask in settings.items()}
        if stop():
            return report
    _add_times(report, asks, task, args, stop)
    _compare(report, args.at)
    save(args.json, report)
    return report


def _set_faiss_threads() -> None:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())


@torch.no_grad()
def recall_of(ask: Ask, task: Task) -> float:
    """Share of the true answers that a setting gives."""
    found = torch.cat([torch.as_tensor(ask(x)).long() for x in task.asked.split(256)])
    hits = (found.unsqueeze(2) == task.truth.unsqueeze(1)).any(2)
    return float(hits.double().mean())


def _add_times(
    report: Report,
    asks: dict[tuple[str, str], Ask],
    task: Task,
    args: argparse.Namespace,
    stop: StopWanted,
) -> None:
    """Milliseconds a query of every setting, one at a time and in batches, in turns."""
    singles = [task.asked[i : i + 1] for i in range(min(_SINGLE, len(task.asked)))]
    batches = list(task.asked[: 2 * args.batch].split(args.batch))
    for key, calls in (("ms_single", singles), ("ms_batch", batches)):
        measures = {
            f"{name}: {setting}": partial(_ms_a_query, ask, calls)
            for (name, setting), ask in asks.items()
        }
        for one in measures.values():  # the first call of anything is slower
            one()
        times = interleave(measures, args.repeat, stop, f"Timing, {len(calls[0])} at once")
        for name, setting in asks:
            point = report["contenders"][name]["points"][setting]
            point[key] = float(np.median(times[f"{name}: {setting}"]))


@torch.no_grad()
def _ms_a_query(ask: Ask, calls: Sequence[Tensor]) -> float:
    began = time.perf_counter()
    for x in calls:
        ask(x)
    return 1000 * (time.perf_counter() - began) / sum(len(x) for x in calls)


def _compare(report: Report, at: float) -> None:
    """The fastest setting of each contender that reaches the recall compared at."""
    for result in report["contenders"].values():
        for key in ("ms_single", "ms_batch"):
            reached = [point for point in result["points"].values() if point["recall"] >= at]
            if reached:
                result[f"{key}_at"] = min(point[key] for point in reached)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    return run_benchmark(build_parser(), measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
