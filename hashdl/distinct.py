"""Sparse gradients that are known to name each row, or entry, once.

A backward pass names the rows that it touches once, in order, padded on a GPU at the end by the
last one again, with gradients of 0, which row optimizers skip. Autograd keeps no word of it as it
accumulates, and on a GPU to look would make the host wait: merging rows again costs as much as an
optimizer's own work. But a gradient whose indices lie where those of the pass do is what the pass
gave, its values scaled at most; one that was accumulated of two has indices of its own.
"""

from __future__ import annotations

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# By parameter: the indices of its last pass, kept so that nothing else comes to lie there.
_indices = WeakTensorKeyDictionary()


def remember(parameter: Tensor, grad: Tensor) -> None:
    """Notes that this sparse gradient of a parameter names each row, or entry, once."""
    _indices[parameter] = grad._indices()


def is_remembered(parameter: Tensor) -> bool:
    """Whether the parameter's sparse gradient has the indices of the one that was noted last."""
    noted, grad = _indices.get(parameter), parameter.grad
    if noted is None or grad is None:
        return False
    indices = grad._indices()
    return bool(noted.data_ptr() == indices.data_ptr() and noted.shape == indices.shape)
