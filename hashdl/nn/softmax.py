"""HashSoftmaxWithLoss: softmax and its loss over a huge number of classes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashdl import ops
from hashdl.config import HashConfig
from hashdl.functional import active_linear_log_prob
from hashdl.nn.linear import HashLinear
from hashdl.ops.checks import check_mode
from hashdl.precision import own_dtype
from hashdl.profiling import part
from hashdl.rehash import is_recomputed
from hashdl.selection import select_active
from hashdl.tables import HashTables

# Samples whose N logits are held at once where all classes are needed.
_EXACT_CHUNK = 256
_REDUCTIONS = ("mean", "sum", "none")
# Of the shared classes, one in so many is drawn; the others are labels, as far as any were met.
_SHARED_PER_DRAW = 10


class SoftmaxOutput(NamedTuple):
    """What :class:`HashSoftmaxWithLoss` returns, as of nn.AdaptiveLogSoftmaxWithLoss.

    Attributes:
        output: log probability of each sample's target (their mean, for several labels).
        loss: minus the mean of ``output`` over the samples that have a label; see ``reduction``.
    """

    output: Tensor
    loss: Tensor


class HashSoftmaxWithLoss(nn.Module):
    r"""Softmax cross-entropy over N classes that computes only the classes that matter.

    In training, the softmax of a sample runs over its active set: its labels, the classes with the
    largest logits that the hash tables find (hard negatives), uniform random classes
    (``config.random``), and classes shared by the batch (``config.shared``):

    .. math::
        \ell = -\log \frac{e^{z_y}}{\sum_{i \in \text{active}(x)} e^{z_i - \gamma \log q_i}},

    with :math:`q_i = 1` for labels (those shared, of this batch and of earlier ones, as well) and
    retrieved classes, the probability of being drawn for random and shared ones, and
    :math:`\gamma` = ``config.log_q``. With :math:`\gamma = 1` the sum is an unbiased estimate of
    that over all classes (sampled softmax: Bengio and Senécal, *Adaptive Importance Sampling to
    Accelerate Training of a Neural Probabilistic Language Model*, 2008), if there are any such
    draws; its gradient is noisy, since what is drawn stands for many. By default
    :math:`\gamma = 0`; see :class:`HashConfig`. With
    ``config.selection="union"``, and where ``config.inclusion_known``, retrieved classes are draws
    as well, and :math:`q_i` is the probability of being retrieved or drawn: unbiased without random
    classes too, at about
    :math:`B A d^2` multiplications where the layer is balanced. In evaluation, loss and
    probabilities are exact.

    Hard negatives alone can stall a model that begins from nothing: until it tells labels from the
    rows with the largest logits, it lowers the loss by shrinking every input of the head, and stays
    at :math:`\log(A + 1)`. Classes that the batch shares keep it from that: some hundreds or more.

    The interface is that of :class:`torch.nn.AdaptiveLogSoftmaxWithLoss`; classes need no order.

    Args:
        in_features: d, size of an input.
        n_classes: N.
        bias: learn a bias a class. Default: ``True``.
        config: how to hash. Default: :attr:`default_config`.
        device: of parameters and tables.
        dtype: of parameters.
        ignore_index: a target that is no label, as of :class:`torch.nn.CrossEntropyLoss`.
            Default: -100.
        reduction: of the loss: ``"mean"`` over the samples that have a label, ``"sum"``, or
            ``"none"``: a loss for each sample. Default: ``"mean"``.

    Shape:
        - input: :math:`(*, d)`
        - target: integer :math:`(*)`; several labels a sample: :math:`(*, M)` padded with -1, or,
          of inputs :math:`(B, d)`, a sparse CSR tensor :math:`(B, N)` whose stored places are the
          labels
        - output: :math:`(*)`; loss: scalar, or :math:`(*)` with ``reduction="none"``

    Attributes:
        linear: the :class:`HashLinear` that holds weight :math:`(N, d)`, bias and tables.
        default_config: ``HashConfig(active=100, shared=1000)`` (at most N).

    Raises:
        ValueError: ``reduction`` is none of the three.
        TypeError: ``bias`` or ``config`` is something else; input or target is no tensor.
        RuntimeError: shapes or dtypes do not fit, a label is out of range, or, in training, the
            input has NaN.

    Examples:
        >>> head = HashSoftmaxWithLoss(16, 10_000, config=HashConfig(active=100, random=0.5))
        >>> output, loss = head(torch.randn(8, 16), torch.arange(8))
        >>> loss.backward()
        >>> head.predict(torch.randn(8, 16)).shape
        torch.Size([8])

        Weights of classes, or of samples, multiply the outputs:

        >>> weight, target = torch.rand(10_000), torch.arange(8)
        >>> output, _ = head(torch.randn(8, 16), target)
        >>> loss = -(weight[target] * output).sum() / weight[target].sum()
    """

    default_config: ClassVar[HashConfig] = HashConfig(active=100, shared=1000)

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        bias: bool = True,
        *,
        config: HashConfig | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"HashSoftmaxWithLoss: reduction: got {reduction!r}, wanted one of "
                f"{list(_REDUCTIONS)}"
            )
        if not isinstance(ignore_index, int):
            raise TypeError(
                f"HashSoftmaxWithLoss: ignore_index: got {ignore_index!r}, wanted an int"
            )
        self.ignore_index, self.reduction = ignore_index, reduction
        if config is None:
            config = self.default_config
        self._hold(
            HashLinear(in_features, n_classes, bias, config=config, device=device, dtype=dtype)
        )

    def _hold(self, linear: HashLinear) -> None:
        self.linear = linear
        # Labels that were shared in the last step, the newest first, and those of the step before.
        self.recent_labels: Tensor
        self.register_buffer("recent_labels", self._no_labels(), persistent=False)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        config: HashConfig | None = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> HashSoftmaxWithLoss:
        """A head over the same Parameter objects as an output layer, in its mode.

        The names in a state dict become those of ``linear`` inside the head: ``linear.weight``.

        Args:
            linear: the output layer; it is not changed.
            config: how to hash. Default: the class's.
            ignore_index: see the class.
            reduction: see the class.

        Examples:
            >>> dense = nn.Linear(16, 10_000)
            >>> head = HashSoftmaxWithLoss.from_linear(dense)
            >>> head.weight is dense.weight
            True
        """
        head = cls(
            *(linear.in_features, 1, False),
            config=config,
            device="meta",
            ignore_index=ignore_index,
            reduction=reduction,
        )
        head._hold(HashLinear.from_linear(linear, head.config if config is None else config))
        return head.train(linear.training)

    @property
    def in_features(self) -> int:
        """Size d of an input."""
        return self.linear.in_features

    @property
    def n_classes(self) -> int:
        """Number N of classes."""
        return self.linear.out_features

    @property
    def config(self) -> HashConfig:
        """How the classes are hashed."""
        return self.linear.config

    @property
    def weight(self) -> Tensor:
        """The classes' rows, (N, d)."""
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        """The classes' biases, (N,), or None."""
        return self.linear.bias

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        self.linear.reset_parameters()
        self.recent_labels.fill_(-1)
        self.rehash()

    def rehash(self) -> None:
        """Hash all classes again, now."""
        self.linear.rehash()

    def save_index(self, path: str | os.PathLike[str]) -> None:
        """Write the tables to a file: :meth:`HashLinear.save_index` of ``linear``.

        Which labels the batches shared last is a matter of training, and is not kept.

        Args:
            path: the file; an interrupted save leaves what was there.

        Raises:
            ValueError: there are no tables: every class is active.

        Examples:
            >>> import tempfile
            >>> head = HashSoftmaxWithLoss(8, 5000).eval()
            >>> other = HashSoftmaxWithLoss(8, 5000).eval()
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     head.save_index(folder + "/index.pt")
            ...     _ = other.load_state_dict(head.state_dict())
            ...     other.load_index(folder + "/index.pt")
        """
        self.linear.save_index(path)

    def load_index(self, path: str | os.PathLike[str]) -> None:
        """Read tables that :meth:`save_index` wrote, of a head or layer with the same weights.

        Args:
            path: the file.

        Raises:
            ValueError: there are no tables; or the file is no index, or one of another version,
                size or weight, or of tables made in another way: nothing has changed then.

        Examples:
            See :meth:`save_index`.
        """
        self.linear.load_index(path)

    # ---- training ------------------------------------------------------------------------------

    def forward(self, input: Tensor, target: Tensor) -> SoftmaxOutput:
        """Log probabilities of the targets and the loss: see the class."""
        x, samples = self.linear._flat(input), input.shape[:-1]
        labels, complete = self._labels(target, samples)
        if self.training and self.linear.tables is not None:
            output = self._sampled_log_prob(x, labels, self.linear.tables)
        else:
            output = self._exact_log_prob(x, labels)
        with part("loss"):
            loss = reduced(output, None if complete else labels, self.reduction)
        if self.reduction == "none":
            loss = loss.reshape(samples)
        return SoftmaxOutput(output.reshape(samples), loss)

    def _sampled_log_prob(self, x: Tensor, labels: Tensor, tables: HashTables) -> Tensor:
        """Mean log probability (B,) of each sample's labels, over its active set."""
        check_mode("active_linear_log_prob")
        tables._follow(self.linear.weight.device)  # the first to ask is not the tables
        weight, bias, config = self.linear.weight, self.linear.bias, self.config
        shared, n_labels, met = self._shared_rows(x, labels, tables)
        # With log_q, what a sample has by itself has another q than as one of the shared rows.
        left_out = None if config.log_q else shared
        rows, known = select_active(
            tables, x, weight, bias, training=True, labels=labels, shared=left_out
        )
        if met is not None:  # what is wrong with a step has been found by now
            self._remember(*met)
        tables.mark(rows)
        if shared is not None:
            tables.mark(shared)
        log_q = shared_log_q = places = None
        if config.log_q:
            with part("loss"), torch.no_grad():
                M = labels.shape[1]
                log_q, shared_log_q, places = self._log_q(x, rows, shared, n_labels, M, tables)
        return active_linear_log_prob(
            *(x, weight, bias, rows, labels),
            shared=shared,
            known=known,
            log_q=log_q,
            shared_log_q=shared_log_q,
            places=places,
            sparse_grad=config.sparse_grad,
        )

    def _shared_rows(
        self, x: Tensor, labels: Tensor, tables: HashTables
    ) -> tuple[Tensor | None, Tensor | None, tuple[Tensor, Tensor] | None]:
        """Classes that all samples score, how many are labels, and what to :meth:`_remember`.

        Labels stand first: those of the batch, then those met last, as many as there is room for;
        then uniform draws. Which labels were met does not depend on the draws: they are there for
        certain.
        """
        config = self.config
        if config.shared == 0 or x.shape[0] == 0:
            return None, None, None
        again = is_recomputed()
        with part("select"), torch.no_grad():
            earlier = self._earlier_labels(again)
            shared, n_labels, newest = ops.shared_rows(
                # The first label of each sample, then the second, ...
                torch.cat([labels.t().reshape(-1), earlier]),
                count=min(config.shared, self.n_classes),
                max_labels=self._most_shared_labels,
                n_rows=self.n_classes,
                seed=config.seed,
                # Before the tables count this step, unless it is done again.
                step=tables.step - 1 if again else tables.step,
            )
        return shared, n_labels, None if again else (newest, earlier)

    @torch.no_grad()
    def _remember(self, newest: Tensor, earlier: Tensor) -> None:
        """The labels met in a step, and those of the step before."""
        self.recent_labels[1] = earlier
        self.recent_labels[0] = newest

    @property
    def _most_shared_labels(self) -> int:
        count = min(self.config.shared, self.n_classes)
        return count - -(-count // _SHARED_PER_DRAW)

    def _no_labels(self) -> Tensor:
        shape, device = (2, self._most_shared_labels), self.linear.weight.device
        with torch.inference_mode(False):  # training writes to them
            return torch.full(shape, -1, dtype=torch.int32, device=device)

    def _earlier_labels(self, again: bool) -> Tensor:
        """Those that were shared before this step, int32, -1 = none."""
        shape, device = (2, self._most_shared_labels), self.linear.weight.device
        if self.recent_labels.device != device or self.recent_labels.shape != shape:
            self.recent_labels = self._no_labels()  # the weight or the layer was assigned
        return self.recent_labels[int(again)]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        known = self.recent_labels
        result = super()._apply(fn, recurse)
        if not self.recent_labels.is_meta:  # after to_empty it may hold anything
            self.recent_labels.copy_(self._no_labels() if known.is_meta else known)
        return result

    def _log_q(
        self,
        x: Tensor,
        rows: Tensor,
        shared: Tensor | None,
        n_labels: Tensor | None,
        M: int,
        tables: HashTables,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Log q, as it counts, of rows (B, M + A) and shared ones, (T,) or (B, T); None: all 0.

        And places (B, M + A) in ``shared`` of rows: what a sample has by itself it has but once.
        """
        config, R, device = self.config, tables.sizes.R, rows.device
        known = config.selection == "union" and config.inclusion_known
        first = M if known else rows.shape[1] - R
        missed = self._missed(shared, n_labels, R)

        def log_q(ids: Tensor) -> Tensor:
            found: Tensor | float = 0.0
            if known:
                found = tables.inclusion(x, ids, self.linear.weight, self.linear.bias)
            # Of what is never drawn no logarithm is taken in earnest.
            tiny = torch.finfo(torch.float32).tiny
            q = (1 - missed * (1 - found)).clamp_min(tiny)
            return config.log_q * q.log().to(x.dtype)

        own_log_q = shared_log_q = places = None
        if shared is not None and n_labels is not None:
            places = ops.find_shared(rows, shared)
            drawn = torch.arange(shared.shape[0], device=device) >= n_labels
            shared_log_q = drawn * log_q(shared)
        if first < rows.shape[1]:
            own = torch.arange(rows.shape[1], device=device) >= first
            if places is not None and n_labels is not None:  # labels are there in any case
                own = own & ~((places >= 0) & (places < n_labels))
            own_log_q = own.expand_as(rows) * log_q(rows)
        return own_log_q, shared_log_q, places

    def _missed(self, shared: Tensor | None, n_labels: Tensor | None, R: int) -> Tensor:
        """Probability that a class is not drawn for a sample, neither on its own nor shared."""
        N = self.n_classes
        # Not torch.tensor, which makes it on the host: to a GPU it would come by a copy that waits.
        alone = (1 - 1 / N) ** R
        missed = torch.full((), alone, dtype=torch.float64, device=self.weight.device)
        if shared is not None and n_labels is not None:
            # Of the N - n_labels classes that are no labels, so many were drawn, all alike likely.
            drawn = (shared >= 0).sum() - n_labels
            missed = missed * (1 - drawn.double() / (N - n_labels).clamp_min(1))
        return missed

    # ---- all classes ---------------------------------------------------------------------------

    def _logits(self, x: Tensor) -> Tensor:
        with own_dtype(x):
            return F.linear(x, self.linear.weight, self.linear.bias)

    def _exact_log_prob(self, x: Tensor, labels: Tensor) -> Tensor:
        """As :meth:`_sampled_log_prob`, over all classes, a chunk of samples at a time."""
        pieces = []
        for chunk, wanted in zip(x.split(_EXACT_CHUNK), labels.split(_EXACT_CHUNK), strict=True):
            logits = self._logits(chunk)
            # Not clamped: what is no class, where nobody has looked, is refused here.
            at_labels = logits.gather(1, wanted.masked_fill(wanted == -1, 0).long())
            pieces.append(_label_log_prob(logits, at_labels, wanted))
        return torch.cat(pieces)

    def log_prob(self, input: Tensor) -> Tensor:
        """Exact log probabilities of all classes.

        Shape:
            - Input: :math:`(*, d)`
            - Output: :math:`(*, N)`
        """
        log_prob = F.log_softmax(self._logits(self.linear._flat(input)), dim=-1)
        return log_prob.reshape(*input.shape[:-1], self.n_classes)

    @torch.no_grad()
    def predict(self, input: Tensor) -> Tensor:
        """The most probable class, as ``log_prob(input).argmax(-1)``; :meth:`topk` is faster.

        Shape:
            - Input: :math:`(*, d)`
            - Output: int64 :math:`(*)`
        """
        chunks = self.linear._flat(input).split(_EXACT_CHUNK)
        best = [self._logits(chunk).argmax(-1) for chunk in chunks]
        return torch.cat(best).reshape(input.shape[:-1])

    @torch.no_grad()
    def topk(self, input: Tensor, k: int, *, exact: bool = False) -> tuple[Tensor, Tensor]:
        """The k classes with the largest logits, among those that the tables find.

        Args:
            input: the inputs.
            k: how many, 1 to N.
            exact: look at all classes instead.

        Shape:
            - Input: :math:`(*, d)`
            - Output: logits and int64 classes, :math:`(*, k)`; see
              :meth:`HashLinear.topk`

        Raises:
            ValueError: ``k`` is no int of 1 to N.
        """
        if not exact:
            return self.linear.topk(input, k)
        self.linear._check_k(k)
        chunks = [self._logits(x).topk(k) for x in self.linear._flat(input).split(_EXACT_CHUNK)]
        values = torch.cat([chunk.values for chunk in chunks])
        indices = torch.cat([chunk.indices for chunk in chunks])
        shape = (*input.shape[:-1], k)
        return values.reshape(shape), indices.reshape(shape)

    # ---- targets -------------------------------------------------------------------------------

    def _labels(self, target: Tensor, samples: torch.Size) -> tuple[Tensor, bool]:
        """Targets of any form as int32 (B, M), each label once a sample, -1 = none, checked.

        And whether it is known that every sample has one.
        """
        name = "HashSoftmaxWithLoss: target"
        if not isinstance(target, Tensor):
            raise TypeError(f"{name}: got {type(target).__name__}, wanted a Tensor")
        if target.layout == torch.sparse_csr:
            wanted = (*samples, self.n_classes)
            if tuple(target.shape) != wanted:
                raise RuntimeError(f"{name}: got shape {tuple(target.shape)}, wanted {wanted}")
            columns = self._checked(target.col_indices(), 0)
            return ops.distinct_labels(_padded(target.crow_indices(), columns)), False
        if target.layout != torch.strided:
            raise RuntimeError(
                f"{name}: got {target.layout}, wanted torch.sparse_csr (target.to_sparse_csr()) or "
                "integers"
            )
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            raise RuntimeError(
                f"{name}: got dtype {target.dtype}, wanted integers (classes), or a sparse CSR "
                "tensor (target.to_sparse_csr() of zeros and ones)"
            )
        if not target.dtype.is_signed and target.dtype != torch.uint8:
            target = target.long()  # torch compares no others without a sign
        several = target.dim() == len(samples) + 1
        if target.shape[: len(samples)] != samples or target.dim() > len(samples) + 1:
            wanted_several = ", ".join(map(str, (*samples, "M")))
            raise RuntimeError(
                f"{name}: got shape {tuple(target.shape)}, wanted {tuple(samples)} or "
                f"({wanted_several})"
            )
        if several and target.shape[-1] == self.n_classes > 2:
            self._check_no_indicators(target)
        labels, ignores = self._without_ignored(target, -1 if several else 0)
        if not several:
            return labels.reshape(-1, 1), not ignores
        return ops.distinct_labels(labels.reshape(samples.numel(), target.shape[-1])), False

    def _without_ignored(self, target: Tensor, lowest: int) -> tuple[Tensor, bool]:
        """Classes as int32, -1 in place of what is ignored, and whether there may be such."""
        extremes = _extremes(target)
        if extremes is not None and not extremes[0] <= self.ignore_index <= extremes[1]:
            self._check_range(extremes, lowest)
            return target.to(torch.int32), False
        ignored = target == self.ignore_index
        counted = self._checked(target.masked_fill(ignored, 0), lowest)
        return counted.to(torch.int32).masked_fill(ignored, -1), True

    def _checked(self, labels: Tensor, lowest: int) -> Tensor:
        """The labels; where nobody looks, in place of no label something that ops refuse."""
        extremes = _extremes(labels)
        if extremes is None:
            return torch.where(labels < lowest, -2, labels.clamp_max(self.n_classes))
        self._check_range(extremes, lowest)
        return labels

    def _check_range(self, extremes: tuple[int, int], lowest: int) -> None:
        low, high = extremes
        if low < lowest or high >= self.n_classes:
            raise RuntimeError(
                f"HashSoftmaxWithLoss: target: got labels from {low} to {high}, wanted {lowest} to "
                f"n_classes - 1 = {self.n_classes - 1}"
            )

    def _check_no_indicators(self, target: Tensor) -> None:
        """Zeros and ones in all N columns say which classes are labels; as labels they are two."""
        extremes = _extremes(target)
        if extremes in ((0, 0), (0, 1)):
            raise RuntimeError(
                f"HashSoftmaxWithLoss: target: got zeros and ones of shape {tuple(target.shape)}, "
                "wanted classes, padded with -1, or a sparse CSR tensor (target.to_sparse_csr())"
            )


def _extremes(labels: Tensor) -> tuple[int, int] | None:
    """The least and the largest; None without any, and where nobody can or should look.

    A compiled graph leaves checks to the ops, and so does a GPU: the host would wait.
    """
    unseen = labels.is_cuda or labels.is_meta or torch.compiler.is_compiling()
    if unseen or labels.numel() == 0:
        return None
    low, high = labels.aminmax()
    return int(low), int(high)


def reduced(output: Tensor, labels: Tensor | None, reduction: str) -> Tensor:
    """The loss of log probabilities (B,) of samples with labels (B, M).

    Args:
        output: the log probabilities.
        labels: -1 = none; None: every sample has one.
        reduction: as for :class:`HashSoftmaxWithLoss`.
    """
    if reduction == "none":
        return -output
    if reduction == "sum":
        return -output.sum()
    if labels is None:
        return output.sum() / -output.shape[0]
    return output.sum() / -(labels >= 0).any(1).sum().clamp_min(1)


def _padded(offsets: Tensor, values: Tensor) -> Tensor:
    """A CSR tensor's columns as int32 (B, M), padded with -1."""
    counts = offsets.diff()
    M = int(counts.max()) if counts.numel() else 0
    column = torch.arange(M, device=values.device)
    at = (offsets[:-1, None] + column).clamp_max(max(values.numel() - 1, 0))
    padded = values[at] if values.numel() else at
    return torch.where(column < counts[:, None], padded, -1).to(torch.int32)


def _label_log_prob(logits: Tensor, at_labels: Tensor, labels: Tensor) -> Tensor:
    """Mean over a sample's labels of ``at_labels - logsumexp(logits)``; 0 without labels."""
    counted = labels >= 0
    # A sample with nothing to count may have no finite logit at all: keep its gradient finite.
    logits = logits.masked_fill(~counted.any(1, keepdim=True), 0)
    log_prob = at_labels - logits.logsumexp(1, keepdim=True)
    log_prob = torch.where(counted, log_prob, 0)
    return log_prob.sum(1) / counted.sum(1).clamp_min(1)
