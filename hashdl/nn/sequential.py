"""HashSequential: an nn.Sequential whose hashed layers pass on their active outputs alone."""

from __future__ import annotations

from torch import Tensor, nn

from hashdl.functional import scatter_rows
from hashdl.nn.linear import HashLinear

# Elementwise, with f(0) = 0 whatever their settings.
_KEEP_ZERO = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Softsign, nn.Hardswish, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink),
    *(nn.Dropout, nn.Identity),
)


class HashSequential(nn.Sequential):
    """An nn.Sequential in which hashed layers that follow each other compute active times active.

    Where a :class:`HashLinear` follows another one, with nothing but elementwise modules between
    them that keep zero at zero (ReLU, GELU, SiLU, Tanh, Dropout and the like), the second one is
    computed from the active outputs of the first: see :meth:`HashLinear.sparse_to_sparse`. Outputs
    and gradients are those of an nn.Sequential, up to rounding (dropout draws other numbers).
    :func:`hashdl.convert` makes an nn.Sequential one, and :func:`hashdl.revert` changes it back.

    Modules with hooks get the dense tensors that they would get in an nn.Sequential.
    """

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Sequential."""
        modules = list(self)
        at = 0
        while at < len(modules):
            links = _chain(modules[at:])
            input = _run_chain(links, input) if len(links) > 1 else modules[at](input)
            at += max(len(links), 1)
        return input


def has_chain(modules: list[nn.Module]) -> bool:
    """Whether some hashed layers among the modules of a sequence can be chained.

    Args:
        modules: in the order in which they are called.

    Examples:
        >>> layers = [HashLinear(8, 2000), nn.ReLU(), HashLinear(2000, 2000)]
        >>> has_chain(layers), has_chain([layers[0], nn.Sigmoid(), layers[2]])
        (True, False)
    """
    return any(len(_chain(modules[at:])) > 1 for at in range(len(modules)))


def _chain(modules: list[nn.Module]) -> list[nn.Module]:
    """The longest beginning of the modules that is a chain: hashed first, and hashed last."""
    length = 0
    for at, module in enumerate(modules):
        if _has_hooks(module):
            break
        if type(module) is HashLinear and module.tables is not None:
            length = at + 1
            if module.config.fill != 0:  # it can end a chain, not go on with one
                break
        elif at == 0 or type(module) not in _KEEP_ZERO:
            break
    return modules[:length]


def _has_hooks(module: nn.Module) -> bool:
    return any(
        (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
    )


def _run_chain(links: list[nn.Module], input: Tensor) -> Tensor:
    """Through a chain, from a dense input to a dense output."""
    first, *others = links
    assert isinstance(first, HashLinear)
    rows, values = first.sparse_forward(input)
    last = first
    for module in others:
        if isinstance(module, HashLinear):
            rows, values = module.sparse_to_sparse(rows, values)
            last = module
        else:
            values = module(values)
    A, N = rows.shape[-1], last.out_features
    out = scatter_rows(values.reshape(-1, A), rows.reshape(-1, A), N, last.config.fill)
    return out.reshape(*input.shape[:-1], N)
