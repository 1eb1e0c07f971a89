"""HashFeedForward: the feed-forward block of a transformer, at its active neurons alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hashdl.config import HashConfig
from hashdl.nn.columns import ColumnLinear
from hashdl.nn.hidden import HashHidden
from hashdl.nn.linear import HashLinear


class HashFeedForward(HashHidden):
    r"""A wide feed-forward block: hashed up-projection, down-projection of active columns.

    .. math:: y = b' + \sum_{n \text{ active}} h_n W'_{:, n}

    with h as in :class:`HashHidden`. Rows of the up-projection and columns of the down-projection
    are contiguous, so a token reads 2 A d numbers (3 A d gated) where the dense block reads 2 N d:
    meant for inference at batch 1, where reading the weights is what takes time. It trains as well.

    The state dict has the names ``up``, ``gate`` and ``down``, each as an nn.Linear's.

    Args:
        features: d, size of inputs and outputs.
        neurons: N, width of the block.
        activation: elementwise. Default: ``None``, nn.GELU; nn.SiLU if gated.
        gated: see :class:`HashHidden`. Default: ``False``.
        bias: learn additive biases. Default: ``True``.
        config: how to hash. Default: ``HashConfig()``.
        device: of parameters and tables.
        dtype: of parameters.

    Shape:
        - Input: :math:`(*, d)`
        - Output: :math:`(*, d)`

    Examples:
        >>> block = HashFeedForward(16, 1000, config=HashConfig(active=50)).eval()
        >>> block(torch.randn(1, 16)).shape
        torch.Size([1, 16])
    """

    def __init__(
        self,
        features: int,
        neurons: int,
        *,
        activation: nn.Module | None = None,
        gated: bool = False,
        bias: bool = True,
        config: HashConfig | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if activation is None:
            activation = nn.SiLU() if gated else nn.GELU()
        config = HashConfig() if config is None else config
        super().__init__(features, neurons, activation, gated, config, bias, device, dtype)
        self.down = ColumnLinear(
            neurons, features, bias, sparse_grad=config.sparse_grad, device=device, dtype=dtype
        )

    @classmethod
    def from_linears(
        cls,
        up: nn.Linear,
        down: nn.Linear,
        activation: nn.Module,
        *,
        gate: nn.Linear | None = None,
        config: HashConfig | None = None,
    ) -> HashFeedForward:
        """A block with the layers of a dense one.

        Args:
            up: from d to N features; its parameters are shared.
            down: from N to d features; its weight is copied, its bias shared.
            activation: elementwise; of the gate, if there is one.
            gate: from d to N features; its parameters are shared.
            config: how to hash. Default: ``HashConfig()``.

        Raises:
            ValueError: sizes do not fit together.

        Examples:
            >>> up, down = nn.Linear(8, 100), nn.Linear(100, 8)
            >>> block = HashFeedForward.from_linears(up, down, nn.GELU())
            >>> block.up.weight is up.weight
            True
        """
        d, N = up.in_features, up.out_features
        sizes = [(down.out_features, down.in_features)]
        sizes += [] if gate is None else [(gate.in_features, gate.out_features)]
        if any(size != (d, N) for size in sizes):
            raise ValueError(
                f"HashFeedForward.from_linears: got up {d} to {N}, down {down.in_features} to "
                f"{down.out_features}"
                + ("" if gate is None else f", gate {gate.in_features} to {gate.out_features}")
                + ", wanted d to N, N to d, and d to N"
            )
        config = HashConfig() if config is None else config
        gated = gate is not None
        block = cls(d, N, activation=activation, gated=gated, config=config, device="meta")
        hashed = HashLinear.from_linear(up if gate is None else gate, config)
        if gate is None:
            block.up = hashed
        else:
            block.up, block.gate = HashLinear.from_linear(up, block.up.config), hashed
        block.down = ColumnLinear.from_linear(down, sparse_grad=config.sparse_grad)
        return block.train(up.training)

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        """Outputs (\\*, d)."""
        return self.down.from_active(*super().forward(input))
