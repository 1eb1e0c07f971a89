"""tune: which way of hashing finds a layer's largest outputs at the least cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hashdl import metrics
from hashdl.config import HashConfig
from hashdl.hashing import FAMILIES
from hashdl.hashing.transforms import TRANSFORMS
from hashdl.nn import HashLinear, HashSoftmaxWithLoss
from hashdl.progress import track
from hashdl.tuning.arguments import check_inputs, family_names, linear_of, refusal
from hashdl.tuning.curves import Curve, Point, Preparation, Structure, Study
from hashdl.tuning.result import Trial, TuneResult
from hashdl.tuning.timing import measure_ms

# Inputs that are too few to tell configurations apart: half of them measure.
_FEWEST = 32
# Ways to prepare rows and queries that every family is tried with.
_PREPARED = (Preparation(False, False), Preparation(True, False), Preparation(True, True))
# Ranks that are tried of layers with more inputs than twice as many.
_RANKS = (16, 32, 64, 128)
# Most bits of a table that are tried.
_MOST_BITS = 20
# How many are varied: families in their sizes; of all tables so far, the best in what comes before
# them, and then in everything.
_SIZED, _PREPARED_ANEW, _REFINED = 3, 2, 2
# Caps, in mean loads, where the fullest bucket holds more.
_CAPS = (1, 2, 4, 8)
# Sketches cannot bring down the cost of finding rows: beyond so many times the least cost of all
# that was met so far, none are tried.
_WORTH = 2.0
# Configurations that are timed: the cheapest by estimate, of the same tables so many. How long for
# each, and by how many calls.
_TIMED, _TIMED_ALIKE, _SECONDS, _CALLS = 12, 3, 0.3, 64


class _Targets(NamedTuple):
    """What is asked for; None: nothing."""

    recall: float | None
    touched: float | None
    ms: float | None

    def allow(self, trial: Trial | Point, margin: float = 0.0) -> bool:
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
    families: str | Sequence[str] | None = None,
    base: HashConfig | None = None,
    seed: int = 0,
    progress: bool = True,
) -> TuneResult:
    """Search how to hash a layer so that its k largest outputs are found at the least cost.

    Half of the inputs prepare the tables (balancing needs to know the queries), the other half
    measures. Each family is tried with each way of centring and balancing; of the best, other sizes
    (K, L); of the best of all, transforms and low ranks; around those, sizes closer by, and smaller
    caps where buckets are uneven. Tables are built once for all numbers of probes, sketches, and
    numbers of rows A that a sketch leaves: recall and rows read follow from one look-up, and no
    sketch is tried of tables that find too little among too many rows to come near the best so far.
    Of what meets the targets, the cheapest by estimate are built and timed; the fastest wins. A
    target is met when the mean recall is above it by its standard error, so that other inputs of
    the kind meet it too.

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
    _check(linear, inputs, k, batch)
    names = family_names("tune", families)
    base = (HashConfig() if base is None else base).replace(seed=seed, random=0.0, active_eval=None)
    study = Study(linear, inputs, k, seed, batch)
    search = _Search(study, targets, base)
    chosen, trials, hashed = _timed(search, search.run(names, progress))
    dense = _dense_ms(study)
    return TuneResult(chosen.config, hashed, search.meets(chosen), chosen, trials, dense, k, batch)


def _targets(recall: float | None, touched: float | None, ms: float | None) -> _Targets:
    for name, share in (("target_recall", recall), ("max_touched", touched)):
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"hashdl.tune: {name}: got {share}, wanted a share above 0, at most 1")
    if ms is not None and not ms > 0:
        raise ValueError(f"hashdl.tune: max_ms: got {ms}, wanted more than 0")
    if recall is None and ms is None:
        recall = 0.95
    return _Targets(recall, touched, ms)


def _check(linear: nn.Linear, inputs: Tensor, k: int, batch: int) -> None:
    refuse = partial(refusal, "tune")
    N, d = linear.weight.shape
    if N < 2:
        raise refuse("layer", "1 row", "2 or more")
    check_inputs("tune", inputs, d)
    if inputs.numel() // d < _FEWEST:
        wanted = f"at least {_FEWEST}: half of them measure"
        raise refuse("inputs", f"{inputs.numel() // d} samples", wanted)
    if not 1 <= k <= N:
        raise refuse("k", k, f"1 to N = {N}")
    if batch < 1:
        raise refuse("batch", batch, "1 or more")


# ---- search ------------------------------------------------------------------------------------


class _Search:
    """The trials so far, in the order of what is asked for.

    Args:
        study: what is asked.
        targets: what is to be met.
        base: the other fields of the configurations.
    """

    def __init__(self, study: Study, targets: _Targets, base: HashConfig) -> None:
        self.study, self.targets, self.base = study, targets, base
        self.trials: list[Trial] = []
        # The order of the best trial of each structure; how uneven its buckets are.
        self.tried: dict[Structure, tuple[float, ...]] = {}
        self.loads: dict[Structure, tuple[int, float]] = {}

    def order(self, trial: Trial | Point) -> tuple[float, ...]:
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

    def meets(self, trial: Trial | Point) -> bool:
        """Whether a trial meets the targets, with a margin for other inputs."""
        return self.targets.allow(trial, self.study.margin(trial.recall))

    def enough(self, everything: Point) -> bool:
        """Whether more probes than these, without any ranking, are of no use."""
        wanted = 1.0 if self.targets.recall is None else self.targets.recall
        margin = self.study.margin(everything.recall)
        # A ranking loses some of what is found: a little more than the target is worth finding.
        return everything.recall >= min(1.0, wanted + 2 * margin + 0.01)

    def add(self, structure: Structure) -> None:
        """Try a structure: the best trials of each kind of ranking are kept."""
        curve = Curve(self.study, structure, self.base, self.enough)
        points = curve.unranked()
        if self._worth_ranking(curve):
            points += curve.ranked()
        self.loads[structure] = (curve.max_load, curve.mean_load)
        kinds: dict[int, Point] = {}
        for point in sorted(points, key=self.order):
            kinds.setdefault(id(point.sketch), point)
        kept = [curve.trial(point) for point in kinds.values()]
        self.trials += kept
        if kept:
            self.tried[structure] = self.order(kept[0])

    def _worth_ranking(self, curve: Curve) -> bool:
        """Whether sketches of what is found could come near the best of all so far.

        They lose some of the answers, and cost more than nothing beside the look-up.
        """
        least = [order for order in self.tried.values() if order[0] == 0]
        if self.targets.recall is None or not least:
            return True
        costs = [
            curve.without_reading(point)
            for point in curve.found
            if point.recall >= self.targets.recall
        ]
        return min(costs, default=float("inf")) <= _WORTH * min(order[1] for order in least)

    def run(self, names: Sequence[str], progress: bool) -> list[Trial]:
        """Trials of all families, the most promising first."""
        self._try(self._first(names), "Trying families", progress)
        sizes = [other for structure in self._best_families() for other in _other_sizes(structure)]
        self._try(sizes, "Trying sizes", progress)
        for count, vary, title in (
            (_PREPARED_ANEW, self._other_preparations, "Trying transforms and ranks"),
            (_REFINED, self._neighbours, "Refining"),
        ):
            others = [other for structure in self._best(count) for other in vary(structure)]
            self._try(others, title, progress)
        return sorted(self.trials, key=self.order)

    def _try(self, structures: Iterable[Structure], title: str, progress: bool) -> None:
        fresh = [one for one in dict.fromkeys(structures) if one not in self.loads]
        for structure in track(fresh, title, enabled=progress):
            self.add(structure)

    def _best(self, count: int) -> list[Structure]:
        return sorted(self.tried, key=self.tried.__getitem__)[:count]

    def _best_families(self) -> list[Structure]:
        """The best structure of each of the best families."""
        families: dict[str, Structure] = {}
        for structure in self._best(len(self.tried)):
            families.setdefault(structure.family, structure)
        return list(families.values())[:_SIZED]

    def _first(self, names: Sequence[str]) -> list[Structure]:
        """Every family, with every way to prepare rows and queries, at its usual sizes."""
        balances = self._balances
        ways = [way for way in _PREPARED if balances or not way.balance]
        return [
            Structure(name, way, FAMILIES[name].default_bits(self.study.n_rows), _tables(name))
            for name in names
            for way in ways
        ]

    @property
    def _balances(self) -> bool:
        """Whether there are inputs enough to balance by."""
        return len(self.study.prepare) > self.study.linear.in_features

    def _other_preparations(self, structure: Structure) -> list[Structure]:
        """With transforms, and in fewer coordinates."""
        prepared, d = structure.prepared, self.study.linear.in_features
        ways = [prepared._replace(transform=name) for name in TRANSFORMS]
        ways += [Preparation(True, False, rank) for rank in _RANKS if 2 * rank < d]
        return [structure._replace(prepared=way) for way in ways]

    def _neighbours(self, structure: Structure) -> list[Structure]:
        """A little larger and smaller, and with smaller caps where buckets are uneven."""
        K, L = structure.K, structure.L
        largest, mean = self.loads[structure]
        caps = sorted({ceil(times * mean) for times in _CAPS if times * mean < largest})
        return [
            *(structure._replace(K=bits) for bits in (K - 1, K + 1) if 1 <= bits <= _MOST_BITS),
            *(structure._replace(L=tables) for tables in (L - L // 4, L + max(1, L // 2))),
            *(structure._replace(cap=cap) for cap in caps),
        ]


def _tables(name: str) -> int:
    """One table of a family whose buckets fit the rows does what several others do."""
    return 1 if FAMILIES[name].learns else 8


def _other_sizes(structure: Structure) -> list[Structure]:
    K, L = structure.K, structure.L
    bits = {min(max(other, 1), _MOST_BITS) for other in (K - 2, K + 1, K + 2)}
    return [
        *(structure._replace(K=other) for other in sorted(bits)),
        *(structure._replace(L=other) for other in sorted({max(L // 2, 1), 2 * L, 4 * L})),
    ]


# ---- timing ------------------------------------------------------------------------------------


def _timed(search: _Search, trials: Sequence[Trial]) -> tuple[Trial, tuple[Trial, ...], HashLinear]:
    """The best trial, all of them, and its layer: the first few are built and timed."""
    if not trials:
        raise ValueError("hashdl.tune: layer: no family's tables find fewer than most of its rows")
    study, batch = search.study, search.study.batch
    entered, others = _entered(trials)
    built: list[tuple[Trial, HashLinear]] = []
    for trial in entered:
        layer = study.built(trial.config)
        report = metrics.recall(layer, study.held_out, study.k)
        judged = replace(trial, recall=report.recall, touched=report.touched)
        built.append((judged, layer))
    calls = study.held_out[: batch * (len(study.held_out) // batch) or None].split(batch)[:_CALLS]
    asked = sum(len(x) for x in calls)
    steps = {str(i): partial(_ask, layer, calls, study.k) for i, (_, layer) in enumerate(built)}
    times = measure_ms(steps, _SECONDS * len(built))
    timed = [
        (replace(trial, ms=times[str(i)] / asked), layer) for i, (trial, layer) in enumerate(built)
    ]
    timed.sort(key=lambda pair: search.order(_by_the_clock(pair[0])))
    chosen, layer = timed[0]
    return chosen, (*(trial for trial, _ in timed), *others), layer


def _entered(trials: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
    """The first few trials, of the same tables no more than some; and the others."""
    alike = Counter[tuple[object, ...]]()
    entered, others = list[Trial](), list[Trial]()
    for trial in trials:
        config = trial.config
        prepared = (config.center, config.balance, config.rank, config.transform)
        key = (config.family, config.bits, config.tables, *prepared)
        enters = len(entered) < _TIMED and alike[key] < _TIMED_ALIKE
        alike[key] += enters
        (entered if enters else others).append(trial)
    return entered, others


def _by_the_clock(trial: Trial) -> Trial:
    """With the time measured in place of that estimated."""
    assert trial.ms is not None
    return replace(trial, estimate_ms=trial.ms)


def _ask(layer: HashLinear, calls: Sequence[Tensor], k: int) -> None:
    for x in calls:
        layer.topk(x, k)


def _dense_ms(study: Study) -> float:
    """Milliseconds a query of computing every row."""
    x = study.held_out[: study.batch]

    @torch.no_grad()
    def every_row() -> Tensor:
        return study.exact(x)

    return measure_ms({"dense": every_row}, _SECONDS)["dense"] / len(x)
