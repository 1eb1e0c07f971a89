"""Dense products of float32 on a CPU, by the faster of the two libraries that torch has for them.

``torch.mm`` takes MKL, which on processors that are not Intel's reaches half of what oneDNN does;
torch itself takes oneDNN in compiled graphs alone. Both sum in an order that the number of threads
does not change, oneDNN as long as sums are not too long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Terms of a sum from which on oneDNN may share it among threads.
_MOST_TERMS = 4096


def _onednn_op() -> Callable[..., Tensor] | None:
    if not torch.backends.mkldnn.is_available():
        return None
    op = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return None if op is None else op.default


_onednn_linear = _onednn_op()
_PLAIN = (Tensor, nn.Parameter)  # none that a graph is traced with


def _takes_onednn(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN is to multiply a by b^T: plain float32 tensors on a CPU, in short sums."""
    return (
        _onednn_linear is not None
        and 0 < a.shape[1] <= _MOST_TERMS
        and a.dtype == torch.float32 == b.dtype
        and a.is_cpu
        and b.is_cpu
        and type(a) in _PLAIN
        and type(b) in _PLAIN
        and torch._C._get_mkldnn_enabled()
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""The outputs :math:`x W^T + b` of a linear layer, without a gradient.

    Args:
        x: inputs.
        weight: rows; either of the two may be transposed in memory.
        bias: of the rows.

    Shape:
        - x: :math:`(B, d)`, weight: :math:`(N, d)`, bias: :math:`(N)`
        - Output: :math:`(B, N)`

    Examples:
        >>> product(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([[11.]])
    """
    if _takes_onednn(x, weight):
        assert _onednn_linear is not None
        return _onednn_linear(x, weight, bias, "none", [], "")
    return x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    r"""The gradient :math:`G^T x` of a linear layer's weight.

    Args:
        grad: of the outputs.
        x: inputs.

    Shape:
        - grad: :math:`(B, N)`, x: :math:`(B, d)`
        - Output: :math:`(N, d)`
    """
    if _takes_onednn(x.t(), grad.t()):
        # The second factor may be transposed as it is, the first is copied: the smaller one.
        return product(x.t(), grad.t()).t().contiguous()
    return grad.t() @ x


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        return product(grad, weight.t()), weight_gradient(grad, x), grad.sum(0)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As :func:`product`, with a gradient, which has none itself."""
    made: Tensor = _Linear.apply(x, weight, bias)
    return made
