"""HashLinear: a drop-in for nn.Linear that computes the active rows alone."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashdl import index
from hashdl.config import HashConfig
from hashdl.costs import dense_by_auto
from hashdl.functional import active_linear, active_sparse_linear, scatter_rows
from hashdl.huge_pages import prefer_huge_pages
from hashdl.ops import FLOATING
from hashdl.precision import own_dtype
from hashdl.profiling import part
from hashdl.selection import find_best, select_active, select_from_active
from hashdl.tables import HashTables


class HashLinear(nn.Linear):
    r"""A linear layer that hashes its rows and computes only those that the input meets.

    For each sample x the layer looks up candidates in hash tables over the rows (w, b) of its
    weight and bias, and computes

    .. math::
        y_i = \langle w_i, x \rangle + b_i \quad \text{for } i \in \text{active}(x), \qquad
        y_i = \text{fill otherwise.}

    Backward reaches the active rows alone. With ``config.active=1.0`` the layer is exactly
    :class:`torch.nn.Linear`. After Spring and Shrivastava, *Scalable and Sustainable Deep Learning
    via Randomized Hashing* (KDD 2017), section 4.

    ``state_dict`` is that of :class:`torch.nn.Linear`, both ways: tables follow from the weight,
    ``config.seed`` and, where they are balanced, from the queries met so far, of which a layer that
    was loaded knows none: :meth:`calibrate` it, or :meth:`load_index`. They are rebuilt when they
    are missing, moved or stale. In training they are refreshed on the schedule of the
    configuration; in evaluation, when weight or bias has changed since (writing through ``.data``,
    or to tensors made in inference mode, goes unseen: call :meth:`rehash`), and once enough queries
    were met to balance by. There no random rows are active, and what a sample finds depends on
    nothing beside it. In training each call, of :meth:`active` and :meth:`sparse_forward` too,
    counts as a step of the schedule.

    A weight that is computed, as by a parametrization, is another one in each call: in training
    tables keep to the schedule all the same, in evaluation all rows are hashed again each time. Use
    :func:`torch.nn.utils.parametrize.cached`, or remove the parametrization before.

    Under :func:`torch.autocast` the layer keeps the dtype of its weight. Under
    :func:`torch.utils.checkpoint.checkpoint` a call counts once, and the rows that were active are
    computed again, if the layer has not been called in between. In evaluation threads may share it;
    one that makes its first use of torch while another builds tables may keep the one thread that
    some small products there are given, as :func:`torch.set_num_threads` lets it.

    Args:
        in_features: d, size of an input.
        out_features: N, number of rows.
        bias: learn an additive bias. Default: ``True``.
        config: how to hash. Default: ``HashConfig()``.
        device: of parameters and tables.
        dtype: of parameters: float32, float64, bfloat16 or float16.

    Shape:
        - Input: :math:`(*, d)`
        - Output: :math:`(*, N)`

    Attributes:
        weight: the rows, of shape :math:`(N, d)`.
        bias: of shape :math:`(N)`, or None.
        config: the :class:`HashConfig`.
        tables: the :class:`hashdl.tables.HashTables`, or None when every row is active: with
            ``config.active=1.0``, or because ``config.auto`` has found hashing not worth it.

    Raises:
        TypeError: ``bias`` or ``config`` is something else, or ``dtype`` none of the four.
        RuntimeError: the input has another size or dtype than the weight, or NaN; or the layer is
            traced by ``torch.jit``.

    Examples:
        >>> layer = HashLinear(16, 1000, config=HashConfig(active=0.05))
        >>> layer(torch.randn(8, 16)).shape
        torch.Size([8, 1000])
        >>> layer.active(torch.randn(8, 16)).shape
        torch.Size([8, 50])
        >>> dense = nn.Linear(16, 1000)
        >>> dense.load_state_dict(layer.state_dict())
        <All keys matched successfully>
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        config: HashConfig | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(bias, bool):
            raise TypeError(
                f"HashLinear: bias: got {type(bias).__name__}, wanted True or False (config is a "
                "keyword argument)"
            )
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self._hash_rows(HashConfig() if config is None else config)

    def _hash_rows(self, config: HashConfig) -> None:
        """Give a layer that is otherwise an nn.Linear its configuration and tables."""
        if not isinstance(config, HashConfig):
            raise TypeError(f"HashLinear: config: got {type(config).__name__}, wanted a HashConfig")
        if self.weight.dtype not in FLOATING:
            wanted = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATING)
            raise TypeError(f"HashLinear: dtype: got {self.weight.dtype}, wanted one of {wanted}")
        self._config = config
        self.tables: HashTables | None = None
        some = self.out_features > config.sizes(self.out_features).A
        if some and not dense_by_auto(config, self.out_features, self.in_features):
            device = self.weight.device
            self.tables = HashTables(self.out_features, self.in_features, config, device)

    @property
    def config(self) -> HashConfig:
        """How the layer is hashed; another one makes other tables, that know of no queries."""
        return self._config

    @config.setter
    def config(self, config: HashConfig) -> None:
        self._hash_rows(config)

    @classmethod
    def from_linear(cls, linear: nn.Linear, config: HashConfig | None = None) -> HashLinear:
        """A HashLinear with the same Parameter objects, so that ties and optimizers keep them.

        Args:
            linear: the layer to hash; it is not changed.
            config: how to hash. Default: ``HashConfig()``.

        Raises:
            TypeError: it is no nn.Linear, or its weight is no Parameter: computed, or yet to come.

        Examples:
            >>> dense = nn.Linear(8, 100)
            >>> HashLinear.from_linear(dense, HashConfig(active=10)).weight is dense.weight
            True
        """
        _check_holds_parameters(linear)
        sizes = (linear.in_features, linear.out_features)
        layer = cls(*sizes, bias=False, config=HashConfig(active=1.0), device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        prefer_huge_pages(layer.weight, now=True)
        layer._hash_rows(HashConfig() if config is None else config)
        return layer.train(linear.training)

    def to_linear(self) -> nn.Linear:
        """An nn.Linear with the same Parameter objects."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight, linear.bias = self.weight, self.bias
        linear.train(self.training)
        return linear

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, as nn.Linear does."""
        prefer_huge_pages(self.weight)
        super().reset_parameters()
        self._invalidate()

    # ---- forward -------------------------------------------------------------------------------

    def forward(self, input: Tensor) -> Tensor:
        """Outputs (\\*, N), ``config.fill`` where a row is not active."""
        if self.tables is None:
            return super().forward(input)
        rows, values = self.sparse_forward(input)
        A = rows.shape[-1]
        flat_rows, flat_values = rows.reshape(-1, A), values.reshape(-1, A)
        out = scatter_rows(flat_values, flat_rows, self.out_features, self.config.fill)
        return out.reshape(*input.shape[:-1], self.out_features)

    def active(self, input: Tensor) -> Tensor:
        """The active rows of each sample.

        Shape:
            - Input: :math:`(*, d)`
            - Output: int32 :math:`(*, A)`, distinct within a sample, padded with -1
        """
        x = self._flat(input)
        rows, _ = self._active_rows(x)
        return rows.reshape(*input.shape[:-1], rows.shape[-1])

    def sparse_forward(self, input: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Active rows and their outputs, with no dense output.

        Args:
            input: the inputs.
            rows: rows to compute, distinct within a sample, -1 = none.
                Default: those that the tables find.

        Shape:
            - Input: :math:`(*, d)`; rows: integer :math:`(*, A)`
            - Output: int32 rows :math:`(*, A)` and values :math:`(*, A)`, 0 at padding
        """
        x = self._flat(input)
        if rows is None:
            flat, known = self._active_rows(x)
        else:
            flat, known = self._given_rows(input, rows, "sparse_forward"), None
        with part("forward"):
            layer = (x, self.weight, self.bias)
            sparse = self.config.sparse_grad
            values, _ = active_linear(*layer, flat, None, known, sparse_grad=sparse)
        if self.training and self.tables is not None:
            self.tables.mark(flat)
        shape = (*input.shape[:-1], flat.shape[-1])
        return flat.reshape(shape), values.reshape(shape)

    def sparse_to_sparse(
        self, columns: Tensor, values: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Active rows and their outputs, from the inputs that are not zero alone.

        What :meth:`sparse_forward` answers for the dense input, at active times active
        multiplications, forward and backward. With ``config.sparse_grad`` the weight's gradient
        holds the entries met.

        Args:
            columns: which inputs are not zero, distinct within a sample, -1 = none.
            values: their values.
            rows: as for :meth:`sparse_forward`.

        Shape:
            - columns: int32 :math:`(*, I)`, values: :math:`(*, I)`; rows: integer :math:`(*, A)`
            - Output: int32 rows :math:`(*, A)` and values :math:`(*, A)`, 0 at padding
        """
        flat_values = values.reshape(-1, values.shape[-1])
        flat_columns = columns.reshape(-1, columns.shape[-1])
        x = scatter_rows(flat_values, flat_columns, self.in_features)
        if rows is None and self.tables is None:
            flat = self._all_rows(x)
            with own_dtype(x):
                z = F.linear(x, self.weight, self.bias)
        else:
            active = (flat_values, flat_columns)
            flat = (
                self._rows_from_active(x, active)
                if rows is None
                else self._given_rows(values, rows, "sparse_to_sparse")
            )
            with part("forward"):
                z = active_sparse_linear(
                    *(flat_values, flat_columns, self.weight, self.bias, flat),
                    sparse_grad=self.config.sparse_grad,
                )
        if self.training and self.tables is not None:
            self.tables.mark(flat)
        shape = (*values.shape[:-1], flat.shape[-1])
        return flat.reshape(shape), z.reshape(shape)

    @torch.no_grad()
    def inclusion_probability(self, input: Tensor, rows: Tensor) -> Tensor:
        r"""Probability, over the seeds, that a look-up finds rows: a sample's importance weights.

        With it the rows found are a sample of all rows:
        :math:`\sum_{i \text{ found}} f_i / q_i` has the expectation :math:`\sum_i f_i`. It holds
        where nothing is left out for want of room: see ``HashConfig.log_q``. After Spring and
        Shrivastava, *A new unbiased and efficient class of LSH-based samplers and estimators for
        partition function computation in log-linear models* (2017).

        Args:
            input: the inputs.
            rows: rows of each sample, as of :meth:`active`; -1 = none.

        Shape:
            - Input: :math:`(*, d)`; rows: integer :math:`(*, A)`
            - Output: float32 :math:`(*, A)`, 1 at padding

        Raises:
            ValueError: the probabilities of this configuration are not known.

        Examples:
            >>> config = HashConfig(probes=1, bits=2, selection="union", active=99)
            >>> layer, x = HashLinear(8, 100, config=config), torch.randn(4, 8)
            >>> rows, values = layer.sparse_forward(x)
            >>> total = (values / layer.inclusion_probability(x, rows)).sum(1)
        """
        if not self.config.inclusion_known:
            raise ValueError(
                "HashLinear.inclusion_probability: config: not known, wanted family='simhash', "
                "probes=1 and buckets='exact'"
            )
        x, flat = self._flat(input), self._given_rows(input, rows, "inclusion_probability")
        if self.tables is None:
            return torch.ones(rows.shape, device=rows.device, dtype=torch.float32)
        if not self.tables.built:
            self.rehash()
        return self.tables.inclusion(x, flat, self.weight, self.bias).reshape(rows.shape)

    @torch.no_grad()
    def topk(self, input: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest outputs among the candidates that the tables find.

        Args:
            input: the inputs.
            k: how many, 1 to N.

        Shape:
            - Input: :math:`(*, d)`
            - Output: values :math:`(*, k)`, descending, and int64 row indices :math:`(*, k)`;
              -inf and -1 where fewer than k candidates were found

        Raises:
            ValueError: ``k`` is no int of 1 to N.
        """
        self._check_k(k)
        x, tables, weight, bias = self._flat(input), self.tables, self.weight, self.bias
        if tables is None:
            with own_dtype(x):
                values, indices = F.linear(x, weight, bias).topk(k)
        else:
            with tables.up_to_date(weight, bias, training=False, queries=x):
                values, indices = find_best(tables, x, weight, bias, k)
        if input.dim() == 2:
            return values, indices
        shape = (*input.shape[:-1], k)
        return values.reshape(shape), indices.reshape(shape)

    # ---- tables --------------------------------------------------------------------------------

    def rehash(self) -> None:
        """Hash all rows again and rebuild the tables, now."""
        if self.tables is None or self.weight.is_meta:
            return
        self.tables.invalidate()
        self.tables.refresh(self.weight, self.bias, training=False)

    @torch.no_grad()
    def calibrate(self, inputs: Tensor) -> None:
        """Rehash all rows, balanced by these inputs.

        Training sees to that by itself, as inputs come; a layer that was trained elsewhere should
        be shown some before it is asked: more than d of them, which then count alone. Fewer count
        with those that the layer has met before.

        Args:
            inputs: a sample of what the layer is given, (\\*, d).
        """
        if self.tables is None:
            return
        self.tables.calibrate(self._flat(inputs))
        self.rehash()

    @torch.no_grad()
    def fit_codes(self, inputs: Tensor, labels: Tensor) -> None:
        """Train the hash functions so that inputs find their labels, and rehash all rows.

        For inference, after training: the labels need not be the rows with the largest outputs.
        The functions stay until the next call, through rehashes and moves;
        :meth:`save_index` keeps them. After *label-sensitive sampling* (Liu et al., *HALOS*, MLSys
        2021): see :mod:`hashdl.hashing.learned`.

        Args:
            inputs: a sample of what the layer is given; of many, 1024 are looked at.
            labels: rows that each input is to find; -1 = none.

        Shape:
            - inputs: :math:`(*, d)`; labels: integer :math:`(*)` or :math:`(*, M)`

        Raises:
            ValueError: the family is not ``"learned"``, or the layer has no tables.
            RuntimeError: labels have another shape or dtype, or are no rows.

        Examples:
            >>> layer = HashLinear(8, 300, config=HashConfig(family="learned", active=30))
            >>> layer.fit_codes(torch.randn(100, 8), torch.randint(300, (100,)))
        """
        tables = self._tables_for("fit_codes")
        if self.config.family != "learned":
            raise ValueError(
                f"HashLinear.fit_codes: config.family: got {self.config.family!r}, wanted 'learned'"
            )
        x, of_x = self._flat(inputs), self._codes_labels(inputs, labels)
        tables.calibrate(x)
        tables.fit(self.weight, self.bias, x, of_x)

    def save_index(self, path: str | os.PathLike[str]) -> None:
        """Write the tables to a file, brought up to date: what :meth:`load_index` reads.

        ``state_dict`` holds parameters alone, from which tables are built anew. An index keeps
        these very tables: codes that were learned, balancing by queries that were seen.

        Args:
            path: the file; an interrupted save leaves what was there.

        Raises:
            ValueError: the layer has no tables: every row is active.

        Examples:
            >>> import tempfile
            >>> layer = HashLinear(8, 500).eval()
            >>> other = HashLinear(8, 500, config=layer.config).eval()
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     layer.save_index(folder + "/index.pt")
            ...     _ = other.load_state_dict(layer.state_dict())
            ...     other.load_index(folder + "/index.pt")
        """
        tables = self._tables_for("save_index")
        tables.refresh(self.weight, self.bias, training=False)
        index.save(path, tables, self.weight, self.bias)

    def load_index(self, path: str | os.PathLike[str]) -> None:
        """Read tables that :meth:`save_index` wrote, of a layer with the same weights.

        Args:
            path: the file.

        Raises:
            ValueError: the layer has no tables; or the file is no index, or one of another version,
                size or weight, or of tables made in another way: nothing has changed then.
        """
        index.load(path, self._tables_for("load_index"), self.weight, self.bias)

    def _tables_for(self, method: str) -> HashTables:
        if self.tables is None:
            raise ValueError(f"HashLinear.{method}: the layer has no tables: every row is active")
        return self.tables

    def stats(self) -> dict[str, Any]:
        """What the layer's hashing costs and how its buckets are filled.

        Returns:
            ``rows``, ``active``, ``candidates``, ``bits``, ``tables``, ``probes``; and, of
            :meth:`hashdl.tables.HashTables.stats`, ``buckets``, ``kept``, ``mean_load``,
            ``max_load``, ``empty``, ``gini``, ``rehashes``, ``step``. A layer that
            computes every row has the first two alone, and ``dense_by_auto`` (True) where that is
            because of ``config.auto``.
        """
        sizes = self.config.sizes(self.out_features)
        if self.tables is None:
            every: dict[str, Any] = {"rows": self.out_features, "active": self.out_features}
            return every | {"dense_by_auto": True} if self._dense_by_auto() else every
        stats: dict[str, Any] = {"rows": self.out_features, "active": sizes.A}
        if not self.tables.built:
            self.rehash()
        stats |= {"candidates": sizes.C, "bits": sizes.K, "tables": sizes.L, "probes": sizes.P}
        return stats | self.tables.stats()

    def extra_repr(self) -> str:
        """The sizes, as of nn.Linear, and what is active."""
        if self._dense_by_auto():
            return f"{super().extra_repr()}, active={self.out_features} (dense by auto)"
        sizes = self.config.sizes(self.out_features)
        hashing = f"active={sizes.A}, K={sizes.K}, L={sizes.L}, P={sizes.P}"
        return f"{super().extra_repr()}, {hashing}"

    # ---- inside --------------------------------------------------------------------------------

    def _check_k(self, k: int) -> None:
        if not hasattr(k, "__index__") or not 1 <= k <= self.out_features:
            raise ValueError(
                f"{type(self).__name__}.topk: k: got {k!r}, wanted an int of 1 to out_features = "
                f"{self.out_features}"
            )

    def _dense_by_auto(self) -> bool:
        """Whether there are no tables although the configuration asks for some."""
        return self.tables is None and self.out_features > self.config.sizes(self.out_features).A

    def _flat(self, input: Tensor) -> Tensor:
        """The input as (B, d), checked, and cast where autocast would have cast it."""
        if not isinstance(input, Tensor):
            raise TypeError(f"HashLinear: input: got {type(input).__name__}, wanted a Tensor")
        if input.dim() == 0 or input.shape[-1] != self.in_features:
            raise RuntimeError(
                f"HashLinear: input: got shape {tuple(input.shape)}, wanted "
                f"(*, in_features = {self.in_features})"
            )
        dtype = self.weight.dtype
        if not input.is_meta and torch.is_autocast_enabled(input.device.type):
            input = input.to(dtype)
        if input.dtype != dtype:
            raise RuntimeError(
                f"HashLinear: input: got dtype {input.dtype}, wanted the weight's {dtype}"
            )
        if input.dim() == 2:
            return input
        return input.reshape(-1, self.in_features)

    def _all_rows(self, x: Tensor) -> Tensor:
        every = torch.arange(self.out_features, dtype=torch.int32, device=x.device)
        return every.expand(x.shape[0], -1)

    def _active_rows(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Active rows (B, A) of x (B, d), and their outputs if they are known."""
        if self.tables is None:
            return self._all_rows(x), None
        return select_active(self.tables, x, self.weight, self.bias, training=self.training)

    def _rows_from_active(self, x: Tensor, active: tuple[Tensor, Tensor]) -> Tensor:
        """Active rows (B, A) of x (B, d), given as well as the values and columns not zero."""
        assert self.tables is not None
        layer = (self.weight, self.bias)
        return select_from_active(self.tables, x, active, *layer, training=self.training)

    def _given_rows(self, input: Tensor, rows: Tensor, method: str) -> Tensor:
        """A caller's rows as int32 (B, A)."""
        if not isinstance(rows, Tensor):
            raise TypeError(
                f"HashLinear.{method}: rows: got {type(rows).__name__}, wanted a Tensor"
            )
        integers = not (rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool)
        if not integers or rows.dim() == 0 or rows.shape[:-1] != input.shape[:-1]:
            wanted = ", ".join(map(str, (*input.shape[:-1], "A")))
            raise RuntimeError(
                f"HashLinear.{method}: rows: got {rows.dtype} of shape "
                f"{tuple(rows.shape)}, wanted integers of shape ({wanted})"
            )
        # What no int32 holds is no row either: the kernels refuse it.
        ids = rows.long().clamp(-2, self.out_features).to(torch.int32)
        return ids.reshape(rows.shape[:-1].numel(), rows.shape[-1])

    def _codes_labels(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Labels of inputs as int64 (B, M)."""
        integers = not (labels.is_floating_point() or labels.dtype == torch.bool)
        shape = inputs.shape[:-1]
        if not integers or labels.shape[: len(shape)] != shape or labels.dim() > len(shape) + 1:
            wanted = ", ".join(map(str, shape))
            raise RuntimeError(
                f"HashLinear.fit_codes: labels: got {labels.dtype} of shape "
                f"{tuple(labels.shape)}, wanted integers of shape ({wanted}) or ({wanted}, M)"
            )
        if (
            labels.numel() > 0
            and not -1 <= int(labels.min()) <= int(labels.max()) < self.out_features
        ):
            raise RuntimeError(
                f"HashLinear.fit_codes: labels: got {int(labels.min())} to {int(labels.max())}, "
                f"wanted -1 to out_features - 1 = {self.out_features - 1}"
            )
        M = labels.shape[-1] if labels.dim() > len(shape) else 1
        return labels.reshape(-1, M).long()

    def _invalidate(self) -> None:
        tables = getattr(self, "tables", None)  # none yet as nn.Linear.__init__ draws
        if tables is not None:
            tables.invalidate()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._invalidate()


def _check_holds_parameters(linear: object) -> None:
    """Whether weight and bias are there to be taken over."""
    name = type(linear).__name__
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"HashLinear.from_linear: linear: got {name}, wanted an nn.Linear")
    lazy = isinstance(linear, nn.modules.lazy.LazyModuleMixin) and linear.has_uninitialized_params()
    if lazy or "weight" not in linear._parameters:
        raise TypeError(
            f"HashLinear.from_linear: linear: got a {name} whose weight is "
            f"{'not initialized yet' if lazy else 'computed'}, wanted one that is a Parameter"
        )
