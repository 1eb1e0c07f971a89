"""ColumnLinear: an nn.Linear that reads the columns of its active inputs alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hashdl.functional import active_columns
from hashdl.huge_pages import prefer_huge_pages
from hashdl.precision import own_dtype


class ColumnLinear(nn.Linear):
    r"""A linear layer for inputs of which few are not zero.

    .. math:: y = b + \sum_i v_i \, W_{:, c_i}

    It is an :class:`torch.nn.Linear` whose weight lies in memory column by column, so that each
    active input's column is contiguous. Shape, ``state_dict`` and dense ``forward`` are those of
    nn.Linear; a move, a copy, a load and an optimizer keep the layout. What wants contiguous
    parameters (:func:`torch.nn.utils.parameters_to_vector`, LBFGS) does not take it.

    Args:
        in_features: d, size of a dense input.
        out_features: N, size of an output.
        bias: learn an additive bias. Default: ``True``.
        sparse_grad: give ``weight`` a sparse gradient of the columns met, for :mod:`hashdl.optim`.
            Default: ``False``, a dense one.
        device: of the parameters.
        dtype: of the parameters.

    Examples:
        >>> layer, columns = ColumnLinear(8, 3), torch.tensor([[5, 2]], dtype=torch.int32)
        >>> layer.from_active(columns, torch.ones(1, 2)).shape
        torch.Size([1, 3])
        >>> layer.weight.shape, layer.weight.t().is_contiguous()
        (torch.Size([3, 8]), True)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        sparse_grad: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.sparse_grad = sparse_grad
        self.weight = nn.Parameter(_by_columns(self.weight.detach()))

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, sparse_grad: bool = False) -> ColumnLinear:
        """A ColumnLinear with the same bias Parameter, and a copy of the weight.

        Args:
            linear: the layer; it is not changed.
            sparse_grad: see the class.
        """
        sizes = (linear.in_features, linear.out_features)
        layer = cls(*sizes, bias=False, sparse_grad=sparse_grad, device="meta")
        layer.weight = nn.Parameter(
            _by_columns(linear.weight.detach()), requires_grad=linear.weight.requires_grad
        )
        layer.bias = linear.bias
        return layer.train(linear.training)

    def to_linear(self) -> nn.Linear:
        """An nn.Linear with the same bias Parameter, and a contiguous copy of the weight."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        weight = self.weight.detach().clone(memory_format=torch.contiguous_format)
        linear.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)
        linear.bias = self.bias
        linear.train(self.training)
        return linear

    def from_active(self, columns: Tensor, values: Tensor) -> Tensor:
        """Outputs for active inputs.

        Args:
            columns: which inputs are not zero, -1 = none.
            values: their values.

        Shape:
            - columns: int32 :math:`(*, I)`, values: :math:`(*, I)`
            - Output: :math:`(*, N)`
        """
        flat = values.reshape(-1, values.shape[-1]), columns.reshape(-1, columns.shape[-1])
        with own_dtype(values):
            y = active_columns(*flat, self.weight, sparse_grad=self.sparse_grad)
            y = y if self.bias is None else y + self.bias
        return y.reshape(*values.shape[:-1], self.out_features)


def _by_columns(weight: Tensor) -> Tensor:
    """A copy of the weight that lies in memory column by column."""
    memory = torch.empty(
        (weight.shape[1], weight.shape[0]), dtype=weight.dtype, device=weight.device
    )
    return prefer_huge_pages(memory).copy_(weight.t()).t()
