"""A hashed hidden layer and its activation, from dense or active inputs to active outputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hashdl.config import HashConfig
from hashdl.nn.linear import HashLinear


class Active(NamedTuple):
    """The outputs of a hidden layer that are not zero.

    Attributes:
        rows: int32 (\\*, A), which neurons are active, distinct within a sample, -1 = none.
        values: (\\*, A), their outputs.
    """

    rows: Tensor
    values: Tensor


class HashHidden(nn.Module):
    r"""A hidden layer whose active neurons are found by hashing.

    .. math::
        h_n = f(\langle w_n, x \rangle + b_n) \text{ if n is active}, \qquad h_n = 0 \text{ if not}

    or, gated, :math:`h_n = f(\langle g_n, x \rangle + c_n) (\langle w_n, x \rangle + b_n)`, where
    the rows g of the gate are hashed.

    Where one neuron takes another's place among the active ones, its output jumps from 0 to f of
    a large number, which no dense network does. With ``above`` = a it does not:

    .. math::
        h_n = f(z_n - \max(m + a s, 0)), \qquad m = \tfrac{1}{|S|} \sum_{n \in S} z_n, \qquad
        s^2 = \tfrac{1}{|S|} \sum_{n \in S} (z_n - m)^2, \qquad
        z_n = \langle w_n, x \rangle + b_n

    with S the active neurons that were found, random ones not among them. What changes places has
    an output near the least of theirs, which is below m + a s, and f of a negative number is zero,
    or nearly. The largest of many normal outputs lie about exponentially above the least of them,
    which is near m - s then: a = -1 leaves no room for those that are found or missed by mistake,
    a = 0 takes more than half of the active ones for it.

    Args:
        in_features: d, size of a dense input.
        neurons: N.
        activation: f, elementwise.
        gated: multiply the activated gate with a linear part.
        config: how to hash.
        bias: learn additive biases.
        device: of parameters and tables.
        dtype: of parameters.
        above: activate what an output has above the mean of a sample's active ones and so many
            of their standard deviations. Default: ``None``, what it has above 0.

    Attributes:
        up: the layer w; without a gate it has the tables.
        gate: the layer g, which has them otherwise; or None.
    """

    def __init__(
        self,
        in_features: int,
        neurons: int,
        activation: nn.Module,
        gated: bool,
        config: HashConfig,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        above: float | None = None,
    ) -> None:
        super().__init__()

        def layer(config: HashConfig) -> HashLinear:
            return HashLinear(in_features, neurons, bias, config=config, device=device, dtype=dtype)

        # The linear part has no tables: it is computed where the gate is active.
        self.up = layer(config.replace(active=1.0, random=0.0) if gated else config)
        self.gate = layer(config) if gated else None
        self.activation = activation
        self.above = above

    @property
    def hashed(self) -> HashLinear:
        """The layer that finds the active neurons."""
        return self.up if self.gate is None else self.gate

    def forward(self, input: Tensor | Active) -> Active:
        """Active outputs, from a dense input (\\*, d) or from a layer's active outputs."""
        rows, values = self._linear(self.hashed, input, None)
        if self.above is not None:
            values = values - self._level(rows, values, self.above).clamp_min(0)
        values = self.activation(values)
        if self.gate is not None:
            values = values * self._linear(self.up, input, rows)[1]
        return Active(rows, values)

    def _level(self, rows: Tensor, values: Tensor, above: float) -> Tensor:
        """Mean output (\\*, 1) of the active rows that were found, and ``above`` deviations."""
        tables = self.hashed.tables
        if self.training and tables is not None:  # random ones come last
            found = rows.shape[-1] - tables.sizes.R
            rows, values = rows[..., :found], values[..., :found]
        there = rows >= 0
        count = there.sum(-1, keepdim=True).clamp_min(1)
        mean = values.sum(-1, keepdim=True) / count  # outputs at padding are 0
        if above == 0:
            return mean
        squares = torch.where(there, values - mean, 0).square()
        variance = squares.sum(-1, keepdim=True) / count
        # A root has no gradient at 0, as of a single neuron.
        tiny = torch.finfo(variance.dtype).tiny
        return mean + above * variance.clamp_min(tiny).sqrt()

    def _linear(
        self, layer: HashLinear, input: Tensor | Active, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if isinstance(input, Active):
            return layer.sparse_to_sparse(input.rows, input.values, rows)
        return layer.sparse_forward(input, rows)
