"""tune: which way of hashing finds a layer's largest outputs at the least cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashdl import metrics, ops
from hashdl.config import HashConfig
from hashdl.hashing import FAMILIES, sketching
from hashdl.hashing.functions import project_queries
from hashdl.nn import HashLinear, HashSoftmaxWithLoss
from hashdl.progress import track
from hashdl.tuning.text import figure, in_code, table
from hashdl.tuning.timing import measure_ms

# Inputs that everything is tried on, those that the last few are judged by, and a chunk of them.
_TRIED_ON, _HELD_OUT, _CHUNK = 192, 512, 64
# Inputs that are too few to tell configurations apart: half of them measure.
_FEWEST = 32
# Share of the rows that a look-up may find without a sketch: beyond it, every row costs no more.
_MOST_FOUND = 0.5
# Bits of a row's sketch, by its levels; and rows that it leaves for the exact outputs, in multiples
# of k.
_SKETCH_BITS = {2: (128, 256, 384, 512), 16: (128, 256, 384, 512, 768, 1024)}
_RANKED = (1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
# Ways to prepare rows and queries: (center, balance).
_PREPARED = ((False, False), (True, False), (True, True))
# Families whose sizes are varied: the best of the first look.
_REFINED = 3
# Configurations that are timed: the cheapest by estimate.
_TIMED, _SECONDS = 12, 0.3
# Nanoseconds, for the estimate alone: a row found and selected from, a word of its sketch by its
# levels, a row read at a random place, a float of it, and one of the hash functions. The clock
# chooses.
_FOUND_NS, _WORD_NS = 3.0, {2: 0.6, 16: 0.1}
_ROW_NS, _ROW_FLOAT_NS, _FLOAT_NS = 80.0, 0.35, 0.08


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried.

    Attributes:
        config: the configuration.
        recall: share of the k largest outputs that it finds, on held-out inputs.
        touched: mean share of all rows whose weights are read.
        found: mean share of all rows that the look-up finds.
        estimate_ms: cost of a query by a model, to choose what is timed.
        ms: measured milliseconds a query, of a call with ``batch`` of them; None: not timed.
    """

    config: HashConfig
    recall: float
    touched: float
    found: float
    estimate_ms: float
    ms: float | None = None


@dataclass(frozen=True)
class TuneResult:
    """What :func:`tune` returns; ``print(result)`` shows :attr:`table`.

    Attributes:
        config: the best configuration.
        layer: a :class:`HashLinear` with it, over the same parameters, ready to be asked.
        met: whether every target is met on held-out inputs.
        best: the trial of ``config``.
        trials: everything that was tried, the cheapest of each kind first.
        dense_ms: measured milliseconds a query of computing every row.
        k: how many of the largest outputs counted.
        batch: queries a call when timing.
    """

    config: HashConfig
    layer: HashLinear
    met: bool
    best: Trial
    trials: tuple[Trial, ...]
    dense_ms: float
    k: int
    batch: int

    @property
    def table(self) -> str:
        """What was tried and what it cost: the timed ones, then the best of each family."""
        timed = [trial for trial in self.trials if trial.ms is not None]
        families = {trial.config.family: trial for trial in reversed(self.trials)}
        others = [trial for trial in families.values() if trial.ms is None]
        best = [timed.index(self.best)] if self.best in timed else []
        lines = table([_HEADINGS, *map(_cells, [*timed, *others])], left=(0, 1, 2))
        for number in best:
            lines[number + 1] += "  <-"
        return "\n".join(lines)

    def figures(self) -> dict[str, Any]:
        """Everything as plain values, for a JSON file."""
        return {
            "met": self.met,
            "dense_ms": self.dense_ms,
            "config": dataclasses.asdict(self.config),
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
        }

    def __str__(self) -> str:
        verdict = "" if self.met else "No configuration meets the targets; the nearest is\n"
        return (
            f"{self.table}\n\nms a query, {self.batch} at once; every row: "
            f"{figure(self.dense_ms)} ms\n{verdict}{in_code(self.config)}\n"
            f"recall@{self.k} {self.best.recall:.3f}, "
            f"{self.best.touched:.1%} of the rows read{self._against_every_row()}"
        )

    def _against_every_row(self) -> str:
        """How the best compares with the product with every row, where it was timed."""
        ms, dense_ms = self.best.ms, self.dense_ms
        if ms is None:
            return ""
        if ms > dense_ms:
            return f", {figure(ms / dense_ms)} times as slow as every row: stay dense here"
        return f", {figure(dense_ms / ms)} times as fast as every row"


_HEADINGS = ("family", "prepared", "ranked by", "K", "L", "P", "recall", "read", "found", "ms")


def _cells(trial: Trial) -> tuple[str, ...]:
    config = trial.config
    steps = [name for name in ("center", "balance") if getattr(config, name)]
    sketch = config.selection == "sketch"
    return (
        config.family,
        "+".join(steps) or "-",
        f"{_words_for(config)}, then {config.active} rows" if sketch else "outputs",
        *(str(size) for size in (config.bits, config.tables, config.probes)),
        f"{trial.recall:.3f}",
        f"{trial.touched:.2%}",
        f"{trial.found:.2%}",
        "-" if trial.ms is None else figure(trial.ms),
    )


def _words_for(config: HashConfig) -> str:
    if config.sketch_levels == 2:
        return f"{config.sketch_bits} bits"
    return f"{config.sketch_coordinates} x {config.sketch_levels} levels"


class _Targets(NamedTuple):
    """What is asked for; None: nothing."""

    recall: float | None
    touched: float | None
    ms: float | None

    def allow(self, trial: Trial, margin: float = 0.0) -> bool:
        """Whether a trial meets all of them, as far as it was measured."""
        return (
            (self.recall is None or trial.recall >= min(self.recall + margin, 1.0))
            and (self.touched is None or trial.touched <= self.touched)
            and (self.ms is None or trial.ms is None or trial.ms <= self.ms)
        )


# ---- tune --------------------------------------------------------------------------------------


def tune(
    layer: nn.Linear | HashSoftmaxWithLoss,
    inputs: Tensor,
    *,
    target_recall: float | None = None,
    max_touched: float | None = None,
    max_ms: float | None = None,
    k: int = 10,
    batch: int = 1,
    families: Sequence[str] | None = None,
    base: HashConfig | None = None,
    seed: int = 0,
    progress: bool = True,
) -> TuneResult:
    """Search how to hash a layer so that its k largest outputs are found at the least cost.

    Half of the inputs prepare the tables (balancing needs to know the queries), the other half
    measures. For each family and way of preparing rows and queries, tables are built at several
    sizes; for each number of probes, and for each length of sketch and number of rows that it
    leaves, recall and rows read follow from one look-up. Of what meets the targets, the cheapest by
    estimate are built and timed; the fastest wins. A target is met when the mean recall is above
    it by its standard error, so that other inputs of the kind meet it too.

    The weights are those that the layer has: tune a trained one. Which family trains best is
    another question, that recall on one state of the weights does not answer:
    :func:`hashdl.tune_training` does.

    Args:
        layer: an nn.Linear, a :class:`HashLinear`, or a :class:`HashSoftmaxWithLoss`. It is not
            changed.
        inputs: a sample of what it is given, (\\*, d): a thousand or more.
        target_recall: share of the k largest outputs to be found, 0 to 1. Default: 0.95; with
            ``max_ms`` the largest within it.
        max_touched: largest mean share of rows whose weights are read, 0 to 1.
        max_ms: most milliseconds a query.
        k: how many of the largest outputs count. Default: 10.
        batch: queries a call. Default: 1.
        families: hash families to try. Default: all.
        base: what the other fields of the configuration are taken from.
        seed: of hash functions and of the split of the inputs.
        progress: show a bar on stderr.

    Returns:
        A :class:`TuneResult`: print it.

    Raises:
        TypeError: the layer is none of the three.
        ValueError: a number is out of its range, a family is unknown, or there are too few inputs.

    Examples:
        >>> weight = nn.Linear(16, 2000)
        >>> result = tune(weight, torch.randn(400, 16), target_recall=0.8, progress=False,
        ...               families=["kmeans"])
        >>> result.met and result.best.recall >= 0.8
        True
        >>> result.layer.topk(torch.randn(1, 16), 10)[1].shape
        torch.Size([1, 10])
    """
    linear = linear_of("tune", layer)
    targets = _targets(target_recall, max_touched, max_ms)
    names = sorted(FAMILIES) if families is None else list(families)
    _check(linear, inputs, targets, k, batch, names)
    base = (HashConfig() if base is None else base).replace(seed=seed, random=0.0, active_eval=None)
    study = _Study(linear, inputs, k, seed)
    search = _Search(study, targets, base)
    chosen, trials, hashed = _timed(search, search.run(names, progress), batch)
    dense = _dense_ms(study, batch)
    return TuneResult(chosen.config, hashed, search.meets(chosen), chosen, trials, dense, k, batch)


def linear_of(function: str, layer: object) -> nn.Linear:
    """The linear layer that a function was given.

    Raises:
        TypeError: it is none.
    """
    if isinstance(layer, HashSoftmaxWithLoss):
        return layer.linear
    if isinstance(layer, nn.Linear):
        return layer
    wanted = "an nn.Linear, a HashLinear or a HashSoftmaxWithLoss"
    raise TypeError(f"hashdl.{function}: layer: got {type(layer).__name__}, wanted {wanted}")


def _targets(recall: float | None, touched: float | None, ms: float | None) -> _Targets:
    for name, share in (("target_recall", recall), ("max_touched", touched)):
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"hashdl.tune: {name}: got {share}, wanted a share above 0, at most 1")
    if ms is not None and not ms > 0:
        raise ValueError(f"hashdl.tune: max_ms: got {ms}, wanted more than 0")
    if recall is None and ms is None:
        recall = 0.95
    return _Targets(recall, touched, ms)


def _check(
    linear: nn.Linear, inputs: Tensor, targets: _Targets, k: int, batch: int, names: Sequence[str]
) -> None:
    def refuse(name: str, got: object, wanted: str) -> ValueError:
        return ValueError(f"hashdl.tune: {name}: got {got}, wanted {wanted}")

    N, d = linear.weight.shape
    if inputs.dim() == 0 or inputs.shape[-1] != d:
        raise refuse("inputs", f"shape {tuple(inputs.shape)}", f"(*, {d})")
    if inputs.numel() // d < _FEWEST:
        wanted = f"at least {_FEWEST}: half of them measure"
        raise refuse("inputs", f"{inputs.numel() // d} samples", wanted)
    if not 1 <= k <= N:
        raise refuse("k", k, f"1 to N = {N}")
    if batch < 1:
        raise refuse("batch", batch, "1 or more")
    unknown = [name for name in names if name not in FAMILIES]
    if unknown or not names:
        raise refuse("families", unknown or "none", f"some of {sorted(FAMILIES)}")


# ---- what is measured --------------------------------------------------------------------------


class _Study:
    """A layer, inputs that prepare its tables, others that measure, and the true answers.

    Args:
        linear: the layer.
        inputs: (*, d).
        k: how many of the largest outputs count.
        seed: of the split.
    """

    def __init__(self, linear: nn.Linear, inputs: Tensor, k: int, seed: int) -> None:
        x = inputs.detach().reshape(-1, linear.in_features).to(linear.weight)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        self.linear, self.k = linear, k
        self.prepare = x[order[: len(x) // 2]]
        self.held_out = x[order[len(x) // 2 :]][:_HELD_OUT]
        with torch.no_grad():
            self.truth = torch.cat([self.exact(some) for some in self.held_out.split(_CHUNK)])

    def exact(self, x: Tensor) -> Tensor:
        """The k rows with the largest outputs, of all."""
        return F.linear(x, self.linear.weight, self.linear.bias).topk(self.k).indices

    @property
    def n_rows(self) -> int:
        return self.linear.out_features

    def margin(self, recall: float) -> float:
        """Standard error of a mean recall, taking each input's answers for one draw."""
        return math.sqrt(max(recall * (1 - recall), 0.0) / len(self.held_out))

    def built(self, config: HashConfig) -> HashLinear:
        """The layer with tables that have met the first half of the inputs."""
        layer = HashLinear.from_linear(self.linear, config).eval()
        layer.calibrate(self.prepare)
        return layer


class _Structure(NamedTuple):
    """Tables that are built once, for all numbers of probes and all sketches."""

    family: str
    prepared: tuple[bool, bool]
    K: int
    L: int

    def config(self, base: HashConfig, **changes: object) -> HashConfig:
        center, balance = self.prepared
        return base.replace(
            family=self.family,
            center=center,
            balance=balance,
            bits=self.K,
            tables=self.L,
            **changes,
        )


#: Levels and bits of a sketch.
_Kind = tuple[int, int]


class _Sketch(NamedTuple):
    """Sketches (N, W) and lengths (N,) of all rows, and the planes (d + 1, S) of queries."""

    words: Tensor
    norms: Tensor
    query_planes: Tensor

    def first(self, bits: int) -> _Sketch:
        """Some of the sign bits."""
        return _Sketch(
            self.words[:, : bits // 32].contiguous(), self.norms, self.query_planes[:, :bits]
        )

    def scores(self, x: Tensor, rows: Tensor) -> Tensor:
        """Of rows (B, C), for queries x (B, d)."""
        queries = project_queries(x, self.query_planes)
        scores = ops.sketch_scores(queries, self.words, self.norms, rows)
        return scores.masked_fill(rows < 0, -torch.inf)


class _Curve:
    """Recall and cost of one structure, for every number of probes and every sketch.

    Args:
        study: what is asked.
        structure: what was built.
        base: the other fields of the configurations.
    """

    def __init__(self, study: _Study, structure: _Structure, base: HashConfig) -> None:
        self.study, self.structure, self.base = study, structure, base
        most = min(1 << structure.K, 256)
        config = structure.config(base, probes=most, candidates=1, active=1)
        layer = study.built(config)
        assert layer.tables is not None
        self.tables = layer.tables
        self.sketches = _sketches(layer, base)
        # For each chunk of queries: the queries, all buckets, and the true answers.
        tried_on, self.answers = study.held_out[:_TRIED_ON], study.truth[:_TRIED_ON]
        self.chunks = [
            (x, self.tables.probe(x, has_bias=layer.bias is not None), truth)
            for x, truth in zip(tried_on.split(_CHUNK), self.answers.split(_CHUNK), strict=True)
        ]
        self.max_load = int(layer.stats()["max_load"])

    def trials(self, enough: Callable[[Trial], bool]) -> Iterator[Trial]:
        """All of them, by ascending number of probes.

        More probes find more at a higher cost: none are tried after those that find ``enough``
        without any ranking. Where they find so many rows that every row would cost no more, they
        are of use to a sketch alone.
        """
        for P in _probe_counts(self.tables.sizes.P):
            found, exact, ranks = self._look(P)
            everything = self._trial(P, found, exact, {})
            if mean(found) <= _MOST_FOUND * self.study.n_rows:
                yield everything
            for (levels, bits), of_true in ranks.items():
                kind = {"selection": "sketch", "sketch_levels": levels, "sketch_bits": bits}
                for A in (math.ceil(times * self.study.k) for times in _RANKED):
                    if mean(found) > A:
                        recall = float((of_true < A).double().mean())
                        yield self._trial(P, found, recall, kind | {"active": A})
            if enough(everything):
                return

    def _look(self, P: int) -> tuple[list[int], float, dict[_Kind, Tensor]]:
        """Rows found, a query; recall of all; and for each sketch the ranks of the true answers."""
        study, tables = self.study, self.tables
        hits, counts = 0, list[int]()
        ranks: dict[_Kind, list[Tensor]] = {kind: [] for kind in self.sketches}
        for x, buckets, truth in self.chunks:
            candidates, _ = ops.lookup(
                *(buckets[:, :, :P], tables.offsets, tables.rows),
                cap=study.n_rows,
                candidates=study.n_rows,
                seed=0,
                step=tables.step,
            )
            used = int((candidates >= 0).sum(1).max()) if candidates.numel() else 0
            candidates = candidates[:, :used].contiguous()
            missing = self._missing(candidates, truth)
            counts += (candidates >= 0).sum(1).tolist()
            hits += int((~missing).sum())
            for kind, parts in ranks.items():
                sketch = self.sketches[kind]
                of_true = sketch.scores(x, truth.int())
                parts.append(_ranks(sketch.scores(x, candidates), of_true, missing))
        of_all = {kind: torch.cat(parts) for kind, parts in ranks.items()}
        return counts, hits / self.answers.numel(), of_all

    def _missing(self, candidates: Tensor, truth: Tensor) -> Tensor:
        """Which of the true answers (B, k) are no candidates."""
        seen = torch.zeros(len(truth), self.study.n_rows + 1, dtype=torch.bool, device=truth.device)
        seen.scatter_(1, candidates.long() + 1, True)
        return ~seen.gather(1, truth + 1)

    def _trial(self, P: int, counts: list[int], recall: float, sketch: dict[str, object]) -> Trial:
        N, found = self.study.n_rows, mean(counts)
        config = self.structure.config(
            self.base,
            probes=P,
            cap=max(self.max_load, 1),
            # A query may find more than the mean: none of them is to be cut off.
            candidates=min(N, math.ceil(2 * found) + 64),
            **({"selection": "exact", "active": self.study.k} | sketch),
        )
        read = mean(min(count, int(config.active)) for count in counts) if sketch else found
        return Trial(config, recall, read / N, found / N, self._estimate(config, found, read))

    def _estimate(self, config: HashConfig, found: float, read: float) -> float:
        d = self.study.linear.in_features
        F_, columns = self.tables.functions.shape
        nanoseconds = F_ * columns * _FLOAT_NS + found * _FOUND_NS
        if config.selection == "sketch":
            nanoseconds += d * config.sketch_coordinates * _FLOAT_NS
            nanoseconds += found * (config.sketch_bits // 32) * _WORD_NS[config.sketch_levels]
        return (nanoseconds + read * (_ROW_NS + d * _ROW_FLOAT_NS)) / 1e6


def _probe_counts(most: int) -> list[int]:
    """1, 2, 4, 8, 12, 16, 24, ... up to the most."""
    counts = [1, 2, 4, *(step << power for power in range(2, 8) for step in (2, 3))]
    return [count for count in counts if count <= most]


def _sketches(layer: HashLinear, base: HashConfig) -> dict[_Kind, _Sketch]:
    """All that are tried. Some sign bits are those of a longer sketch; levels are not."""
    tables = layer.tables
    assert tables is not None
    buffers = (tables.maps, tables.center, tables.moment)
    maps, center, moment = (buffer.view(torch.float32) for buffer in buffers)
    D = len(center)

    def sketch(count: int, levels: int, leading: Tensor | None) -> _Sketch:
        planes, query_planes = sketching.planes(maps, D, count, base.seed, leading)
        of_rows = sketching.sketch(layer.weight, layer.bias, planes, center, levels)
        return _Sketch(*of_rows, query_planes)

    signs = sketch(_SKETCH_BITS[2][-1], 2, None)
    made = {(2, bits): signs.first(bits) for bits in _SKETCH_BITS[2]}
    if len(moment) == 0:  # nothing tells in which coordinates outputs vary most
        return made
    for bits in _SKETCH_BITS[16]:
        count = base.replace(sketch_bits=bits, sketch_levels=16).sketch_coordinates
        if count <= D:
            made[16, bits] = sketch(count, 16, moment)
    return made


def _ranks(scores: Tensor, of_true: Tensor, missing: Tensor) -> Tensor:
    """How many candidates have higher scores than each true answer (B, k); many, if it is none."""
    ranks = torch.stack([(scores > each[:, None]).sum(1) for each in of_true.t()], 1)
    return ranks.masked_fill(missing, torch.iinfo(torch.int64).max)


# ---- search ------------------------------------------------------------------------------------


class _Search:
    """The trials so far, in the order of what is asked for.

    Args:
        study: what is asked.
        targets: what is to be met.
        base: the other fields of the configurations.
    """

    def __init__(self, study: _Study, targets: _Targets, base: HashConfig) -> None:
        self.study, self.targets, self.base = study, targets, base
        self.trials: list[Trial] = []

    def order(self, trial: Trial) -> tuple[float, ...]:
        """Smaller is better: what meets the targets, by cost; then what comes near, by recall.

        Without a target for recall, the largest recall within the others.
        """
        targets = self.targets
        if not self.meets(trial):
            over = targets.touched is not None and trial.touched > targets.touched
            return (1.0, float(over), -trial.recall, trial.estimate_ms)
        if targets.recall is not None:
            return (0.0, trial.estimate_ms, -trial.recall)
        within = targets.ms is None or trial.estimate_ms <= targets.ms
        return (0.0, float(not within), -trial.recall, trial.estimate_ms)

    def meets(self, trial: Trial) -> bool:
        """Whether a trial meets the targets, with a margin for other inputs."""
        return self.targets.allow(trial, self.study.margin(trial.recall))

    def enough(self, everything: Trial) -> bool:
        """Whether more probes than these, without any ranking, are of no use."""
        wanted = 1.0 if self.targets.recall is None else self.targets.recall
        margin = self.study.margin(everything.recall)
        # A ranking loses some of what is found: a little more than the target is worth finding.
        return everything.recall >= min(1.0, wanted + 2 * margin + 0.01)

    def add(self, structure: _Structure) -> Trial | None:
        """Try a structure: the best trials of each kind of ranking are kept; the very best."""
        fresh = _Curve(self.study, structure, self.base).trials(self.enough)
        ordered = sorted(fresh, key=self.order)
        kinds: dict[tuple[str, int, int], Trial] = {}
        for trial in ordered:
            config = trial.config
            kind = (config.selection, config.sketch_levels, config.sketch_bits)
            kinds.setdefault(kind, trial)
        self.trials += kinds.values()
        return ordered[0] if ordered else None

    def run(self, names: Sequence[str], progress: bool) -> list[Trial]:
        """Trials of all families, the most promising first."""
        best_way: dict[str, tuple[tuple[float, ...], _Structure]] = {}
        for structure in track(self._first(names), "Trying families", enabled=progress):
            best = self.add(structure)
            if best is not None:
                entry = (self.order(best), structure)
                best_way[structure.family] = min(best_way.get(structure.family, entry), entry)
        sizes = [
            structure._replace(K=K, L=L)
            for _, structure in sorted(best_way.values())[:_REFINED]
            for K, L in _other_sizes(structure)
        ]
        for structure in track(sizes, "Trying sizes", enabled=progress):
            self.add(structure)
        return sorted(self.trials, key=self.order)

    def _first(self, names: Sequence[str]) -> list[_Structure]:
        """Every family, with every way to prepare rows and queries, at its usual sizes."""
        balances = len(self.study.prepare) > self.study.linear.in_features
        ways = [way for way in _PREPARED if balances or not way[1]]
        return [
            _Structure(name, way, FAMILIES[name].default_bits(self.study.n_rows), _tables(name))
            for name in names
            for way in ways
        ]


def _tables(name: str) -> int:
    """One table of a family whose buckets fit the rows does what several others do."""
    return 1 if FAMILIES[name].learns else 8


def _other_sizes(structure: _Structure) -> list[tuple[int, int]]:
    K, L = structure.K, structure.L
    sizes = [(K + 1, L), (K + 2, L), (max(K - 2, 1), L), (K, 2 * L)]
    return [(min(bits, 20), tables) for bits, tables in sizes]


def _timed(
    search: _Search, trials: Sequence[Trial], batch: int
) -> tuple[Trial, tuple[Trial, ...], HashLinear]:
    """The best trial, all of them, and its layer: the first few are built and timed."""
    if not trials:
        raise ValueError("hashdl.tune: layer: no family's tables find fewer than most of its rows")
    study = search.study
    built: list[tuple[Trial, HashLinear]] = []
    for trial in trials[:_TIMED]:
        layer = study.built(trial.config)
        report = metrics.recall(layer, study.held_out, study.k)
        judged = replace(trial, recall=report.recall, touched=report.touched)
        built.append((judged, layer))
    calls = study.held_out[: batch * (len(study.held_out) // batch) or None].split(batch)[:_CHUNK]
    asked = sum(len(x) for x in calls)
    steps = {str(i): partial(_ask, layer, calls, study.k) for i, (_, layer) in enumerate(built)}
    times = measure_ms(steps, _SECONDS * len(built))
    timed = [
        (replace(trial, ms=times[str(i)] / asked), layer) for i, (trial, layer) in enumerate(built)
    ]
    timed.sort(key=lambda pair: search.order(_by_the_clock(pair[0])))
    chosen, layer = timed[0]
    return chosen, (*(trial for trial, _ in timed), *trials[_TIMED:]), layer


def _by_the_clock(trial: Trial) -> Trial:
    """With the time measured in place of that estimated."""
    assert trial.ms is not None
    return replace(trial, estimate_ms=trial.ms)


def _ask(layer: HashLinear, calls: Sequence[Tensor], k: int) -> None:
    for x in calls:
        layer.topk(x, k)


def _dense_ms(study: _Study, batch: int) -> float:
    """Milliseconds a query of computing every row."""
    x = study.held_out[:batch]

    @torch.no_grad()
    def every_row() -> Tensor:
        return study.exact(x)

    return measure_ms({"dense": every_row}, _SECONDS)["dense"] / len(x)
