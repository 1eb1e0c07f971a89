"""How a layer is hashed: one frozen dataclass, and the sizes it means for a layer of N rows."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from hashdl.hashing import FAMILIES
from hashdl.hashing.transforms import TRANSFORMS
from hashdl.ops import MAX_BITS, REPLACEMENTS, SELECTIONS, SKETCH_LEVELS

# Of the default schedule: steps from one rehash to the next, and rows hashed in each of them.
_SHORTEST_INTERVAL, _ROWS_A_STEP = 50, 4000
# Fields that are a share, or a number of rows.
_AMOUNTS = ("active", "active_eval", "random")
# Features up to which layers are balanced by default: eigenvectors take time of order d^3.
_MOST_BALANCED = 1024


@dataclass(frozen=True)
class HashConfig:
    """How the rows of a layer are hashed, looked up and selected.

    ``N`` is the layer's ``out_features``. Fields that are ``None`` follow from ``N``.

    Args:
        family: hash family of the tables, see docs/families.md. Default: ``"simhash"`` (signed
            random projections).
        transform: ``"simple"``, ``"sign_alsh"`` or ``"l2_alsh"``: makes of inner products angles or
            distances, by more coordinates (:mod:`hashdl.hashing.transforms`). Mostly balancing
            does better. Default: ``None``.
        bits: ``K``, bits of a code, 1 to 24; a table has :math:`2^K` buckets.
            Default: ``None``, about ``log2(N) - 2``, so that a bucket holds about 4 rows; for
            ``"kmeans"`` half of ``log2(N)``: as many centroids as rows in a bucket.
        tables: ``L``, number of tables. Default: 16.
        probes: ``P``, buckets read in each table: the query's own, then those whose bits differ
            where the query is nearest to the hyperplane. Default: 4.
        cap: most rows read from one bucket; a fuller one is read from a random place on, another
            one at each step. Default: 128.
        buckets: what a bucket keeps: ``"exact"``, every row; ``"fifo"``, the last ``capacity`` rows
            by their index; ``"reservoir"``, a uniform sample of ``capacity`` rows, another one in
            each table. The latter two bound the memory of tables whose rows are alike.
            Default: ``"exact"``.
        capacity: most rows that a bucket keeps, unless it is ``"exact"``.
            Default: ``None``, as many as :attr:`cap` says.
        candidates: ``C``, most distinct rows kept from the look-up, a sample.
            Default: ``None``, four times the active rows.
        active: ``A``, the rows a sample computes: a float is a share of ``N``, an int is a number
            of rows. ``1.0`` (or ``N`` rows) computes exactly ``nn.Linear``. Default: 0.05.
        active_eval: the same in evaluation, where no random rows are among them and fewer may do,
            as a share of ``N`` or a number of rows, at most :attr:`active`.
            Default: ``None``, as many as :attr:`active`.
        selection: how candidates become active: ``"exact"`` computes their logits and keeps the
            best, ``"sketch"`` estimates them from :attr:`sketch_bits` bits and the length of
            the row, or from :attr:`rank` coordinates, and computes the best alone (no other row is
            read), ``"frequency"`` keeps
            those in most buckets, ``"threshold"`` those in at least :attr:`threshold` buckets,
            ``"union"`` the first found. Default: ``"exact"``.
        sketch_bits: ``S``, bits of a row's sketch, a multiple of 32, for ``selection="sketch"``.
            Default: 256.
        sketch_levels: levels that a coordinate of a sketch is rounded to: 2, a sign bit of each of
            S random directions; or 16, four bits of each of the S / 4 coordinates in which outputs
            vary most, which rank far better where some vary much more than others.
            Default: 2.
        threshold: buckets a candidate must stand in, for ``selection="threshold"``. Default: 2.
        random: part of the active rows that is drawn uniformly in training: a float is a share
            of ``A``, an int is a number of rows. Rows that are all alike, as in a layer that begins
            with zeros, stand in one bucket, which few queries meet: random ones learn until they
            differ. Default: 0.0.
        shared: rows that all samples of a batch score in one matrix product, beside each
            sample's own active rows: labels of the batch and then those met before it, the last
            ones first, at most nine tenths of them; the rest is drawn uniformly. Used by
            :class:`HashSoftmaxWithLoss` in training, where they keep a model that begins from
            nothing from stalling. Default: 0.
        log_q: how far random and shared rows are corrected for, 0 to 1: so many times the log of
            the probability with which a row is drawn is subtracted from its logit. With 1 (or
            ``True``) a drawn row stands for all that were not, and the softmax is an unbiased
            estimate of that over all rows (sampled softmax, Bengio and Senécal, 2008); but its
            gradient is noisy, which slows training. With 0 (or ``False``) rows that were not drawn
            are missing: a steadier gradient, of another loss, which learns fastest where the rows
            found and shared hold most of a sample's softmax. Beside shared rows, with several
            labels a sample, try 0.5. With ``selection="union"``
            retrieved rows are draws too, whose probability (:attr:`inclusion_known`) counts where
            it is known: family ``"simhash"``, one probe, exact buckets. Nothing may be left out
            for want of room then: neither by :attr:`cap` nor by :attr:`candidates` nor by
            :attr:`active`. Elsewhere retrieved rows count as certain.
            Default: 0.0.
        center: hash ``w - mean(W)`` instead of ``w``: shifts all logits of a query alike, and
            fills the buckets more evenly. Default: ``True``.
        balance: hash rows and queries in coordinates in which their second moments are equal:
            changes no inner product, and far more of the rows with the largest outputs are found.
            Queries are observed as they come; d + 1 of them must have been seen.
            Default: ``None``: for layers with up to 1024 inputs, unless :attr:`rank` is given or
            the family learns from the queries by itself (``"learned"``).
        rank: hash rows and queries, and sketch rows, in the ``rank`` coordinates in which outputs
            vary most, instead of balancing all d + 1 of them (:mod:`hashdl.hashing.lowrank`). With
            Q = 256 queries remembered, a rehash then takes about ``(3 N + 2 Q) d rank``
            multiplications to find them, N up to 1024, instead of some :math:`d^3`. With
            ``selection="sketch"`` a row's sketch is these coordinates, in float32, instead of sign
            bits. For hidden layers, whose inputs few directions tell apart. Default: ``None``, all.
        rehash_every: training steps from the first rehash to the second; the work is spread evenly
            over them. Default: ``None``, ``N / 4000``, at least 50: so a step hashes at most about
            4000 rows however many there are, and a row, which a batch meets ever more rarely the
            more rows there are, is hashed again about as often as it changes.
        rehash_growth: factor on that interval after each rehash, at least 1; it grows to 100
            times the first. Default: 1.05.
        rehash_drift: share of codes, 0 to 1, above which a rehash comes early: of the rows that
            were active since they were hashed, some are hashed again every 16th part of
            :attr:`rehash_every`, and when so many of their codes have changed, the rehash is
            completed: after a quarter of :attr:`rehash_every` at the earliest, and at its usual
            time at the latest. Let the interval grow fast with it. What is left of a rehash is
            done in one step then. Default: ``None``, at the usual time.
        background: build tables in a thread, beside the training step. They come in force a step
            later than they would, however long the thread takes: results do not depend on its
            speed. Default: ``False``.
        fill: value of inactive outputs of :meth:`HashLinear.forward`. Default: 0.0.
        sparse_grad: give ``weight`` and ``bias`` sparse COO gradients that hold the active rows
            alone, for :mod:`hashdl.optim`; else dense ones, which every optimizer takes but
            which cost O(N d) a step. In a graph of torch.compile, and of a parametrized weight,
            they are dense in any case.
            Default: ``False``.
        auto: a layer whose hashed step would not be cheaper than the dense one, by
            :func:`hashdl.costs.hashed_work`, runs dense, as with ``active=1.0``; and
            :func:`hashdl.convert` leaves it an nn.Linear. Sizes alone decide, by what a CPU
            takes; on a GPU hashing pays from some hundred thousand rows on, and
            :func:`hashdl.advise` measures it. Default: ``False``.
        seed: of the hash functions and of all random draws. Default: 0.

    Raises:
        ValueError: a field is out of its range.

    Examples:
        >>> HashConfig(active=0.1, tables=8).sizes(1000)
        Sizes(K=8, L=8, P=4, C=400, A=100, R=0, E=100)
        >>> HashConfig(active=200, random=0.5).sizes(100_000).R
        100
        >>> HashConfig(probes=0)
        Traceback (most recent call last):
        ...
        ValueError: HashConfig: probes: got 0, wanted an int of 1 or more
    """

    family: str = "simhash"
    transform: str | None = None
    bits: int | None = None
    tables: int = 16
    probes: int = 4
    cap: int = 128
    buckets: str = "exact"
    capacity: int | None = None
    candidates: int | None = None
    active: float | int = 0.05
    active_eval: float | int | None = None
    selection: str = "exact"
    sketch_bits: int = 256
    sketch_levels: int = 2
    threshold: int = 2
    random: float | int = 0.0
    shared: int = 0
    log_q: float = 0.0
    center: bool = True
    balance: bool | None = None
    rank: int | None = None
    rehash_every: int | None = None
    rehash_growth: float = 1.05
    rehash_drift: float | None = None
    background: bool = False
    fill: float = 0.0
    sparse_grad: bool = False
    auto: bool = False
    seed: int = 0

    @property
    def sketch_coordinates(self) -> int:
        """Directions, or coordinates, that a sketch of :attr:`sketch_bits` tells of."""
        return self.sketch_bits // SKETCH_LEVELS[self.sketch_levels]

    def __eq__(self, other: object) -> bool:
        """As of any dataclass; but a share of 1.0 is every row, and 1 is one row."""
        if not isinstance(other, HashConfig):
            return NotImplemented
        amounts = ((getattr(self, name), getattr(other, name)) for name in _AMOUNTS)
        return vars(self) == vars(other) and all(type(ours) is type(it) for ours, it in amounts)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        self._check_choice("family", sorted(FAMILIES))
        if self.transform is not None:
            self._check_choice("transform", sorted(TRANSFORMS), "None or one")
        self._check_choice("selection", list(SELECTIONS))
        if self.bits is not None:
            self._check_int("bits", 1)
            self._check("bits", self.bits <= MAX_BITS, f"an int of 1 to {MAX_BITS}")
        self._check_choice("buckets", ["exact", *REPLACEMENTS])
        limited = self.capacity is None or self.buckets != "exact"
        self._check("capacity", limited, f"None, with buckets={self.buckets!r}")
        balanced = self.rank is None or self.balance is None
        self._check("balance", balanced, f"None, with rank={self.rank}")
        for name in ("capacity", "candidates", "rank", "rehash_every"):
            if getattr(self, name) is not None:
                self._check_int(name, 1)
        for name in ("tables", "probes", "cap", "threshold", "sketch_bits"):
            self._check_int(name, 1)
        self._check("sketch_bits", self.sketch_bits % 32 == 0, "a multiple of 32")
        self._check("sketch_levels", self.sketch_levels in list(SKETCH_LEVELS), "2 or 16")
        self._check_int("shared", 0)
        for name in ("center", "background", "sparse_grad", "auto"):
            self._check(name, isinstance(getattr(self, name), bool), "True or False")
        is_share = isinstance(self.log_q, int | float) and 0 <= self.log_q <= 1
        self._check("log_q", is_share, "a number of 0 to 1")
        known = self.balance is None or isinstance(self.balance, bool)
        self._check("balance", known, "None, True or False")
        self._check("fill", _is_number(self.fill), "a number")
        growth, drift = self.rehash_growth, self.rehash_drift
        grows = _is_number(growth) and 1 <= growth < math.inf
        self._check("rehash_growth", grows, "1 or more, and finite")
        if drift is not None:
            share = _is_number(drift) and 0 < drift <= 1
            self._check("rehash_drift", share, "None or a share above 0 to 1")
        self._check_int("seed", -(2**63))
        self._check_share("active", lowest=1)
        if self.active_eval is not None:
            self._check_share("active_eval", lowest=1)
        self._check_share("random", lowest=0)

    def _check(self, name: str, ok: bool, wanted: str) -> None:
        if not ok:
            value = getattr(self, name)
            raise ValueError(f"HashConfig: {name}: got {value!r}, wanted {wanted}")

    def _check_choice(self, name: str, choices: list[str], wanted: str = "one") -> None:
        self._check(name, getattr(self, name) in choices, f"{wanted} of {choices}")

    def _check_int(self, name: str, lowest: int) -> None:
        value = getattr(self, name)
        is_int = isinstance(value, int) and not isinstance(value, bool)
        self._check(name, is_int and value >= lowest, f"an int of {lowest} or more")
        self._check(name, value < 2**63, "an int of 64 bits")

    def _check_share(self, name: str, lowest: int) -> None:
        """An int is a number of rows, a float a share."""
        value = getattr(self, name)
        if isinstance(value, float):
            ok = (value > 0 or lowest == 0) and 0 <= value <= 1
        else:
            ok = isinstance(value, int) and not isinstance(value, bool) and value >= lowest
        self._check(name, ok, f"a float share of 0 to 1, or an int of {lowest} or more rows")

    def replace(self, **changes: object) -> HashConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def sizes(self, n_rows: int) -> Sizes:
        """The numbers that this configuration means for a layer of ``n_rows`` rows.

        Raises:
            ValueError: more random rows than active ones.
        """
        A = _rows(self.active, n_rows)
        R = _rows(self.random, A)
        # A layer so small that every row is active draws none, whatever was asked for.
        if not isinstance(self.random, float) and self.random > A and n_rows > A:
            wanted = f"wanted at most active = {A}"
            raise ValueError(f"HashConfig: random: got {self.random} rows, {wanted}")
        E = A if self.active_eval is None else _rows(self.active_eval, n_rows)
        if E > A:
            wanted = f"wanted at most active = {A} of {n_rows} rows"
            raise ValueError(f"HashConfig: active_eval: got {self.active_eval!r}, {wanted}")
        K = self.bits
        if K is None:
            K = FAMILIES[self.family].default_bits(n_rows)
        C = min(4 * A if self.candidates is None else self.candidates, n_rows)
        return Sizes(K=K, L=self.tables, P=min(self.probes, 2**K), C=C, A=A, R=R, E=E)

    @property
    def inclusion_known(self) -> bool:
        """Whether it is known how probably a look-up finds a row.

        Examples:
            >>> HashConfig(probes=1).inclusion_known, HashConfig(probes=2).inclusion_known
            (True, False)
        """
        known = FAMILIES[self.family].known_collisions
        return known and self.probes == 1 and self.buckets == "exact"

    def balances(self, features: int) -> bool:
        """Whether a layer with so many inputs is balanced in all of its coordinates.

        Examples:
            >>> HashConfig().balances(1000), HashConfig(rank=16).balances(1000)
            (True, False)
        """
        if self.balance is None:
            watches = FAMILIES[self.family].watches
            return self.rank is None and features <= _MOST_BALANCED and not watches
        return self.balance

    @property
    def bucket_capacity(self) -> int | None:
        """Most rows that a bucket keeps, or None."""
        if self.buckets == "exact":
            return None
        return self.cap if self.capacity is None else self.capacity

    def rehash_interval(self, n_rows: int) -> int:
        """Training steps from the first rehash to the second, for a layer of ``n_rows`` rows.

        Examples:
            >>> [HashConfig().rehash_interval(n_rows) for n_rows in (1000, 10**6)]
            [50, 250]
        """
        if self.rehash_every is not None:
            return self.rehash_every
        return max(_SHORTEST_INTERVAL, n_rows // _ROWS_A_STEP)


def _plain(value: Any) -> Any:
    """A number that numpy or torch holds as Python's own; what is no number as it is."""
    if not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except (RuntimeError, ValueError):  # several: a check tells of which field
        return value


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _rows(amount: float | int, of: int) -> int:
    """A share of ``of`` rounded up, or a number of rows, at most ``of``."""
    # Rounded first: 0.07 * 100 is 7.000000000000001, and means 7 rows.
    rows = math.ceil(round(amount * of, 6)) if isinstance(amount, float) else amount
    return min(max(rows, int(amount > 0)), of)  # so small a share has been rounded to 0


@dataclass(frozen=True)
class Sizes:
    """What a :class:`HashConfig` means for one layer, in the letters of the literature.

    Attributes:
        K: bits a table.
        L: tables.
        P: probes a table.
        C: candidates a sample.
        A: active rows a sample, the random ones among them.
        R: random rows a sample in training.
        E: active rows a sample in evaluation.
    """

    K: int
    L: int
    P: int
    C: int
    A: int
    R: int
    E: int
