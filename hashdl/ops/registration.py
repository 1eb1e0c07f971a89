"""How an op is defined: schema, checks, reference, fake, gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hashdl import reference
from hashdl.precision import own_dtype

_LIBRARY = torch.library.Library("hashdl", "DEF")
kernels = torch.ops.hashdl


def define_op(schema: str, checks: Callable[..., None]) -> Callable[[Callable[..., Any]], None]:
    """Define an op: its checks, its reference as the default kernel, and (decorated) its fake."""
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    oracle = getattr(reference, name)

    def default_kernel(*args: Any) -> Any:
        checks(*args)
        with own_dtype(args[0]):
            return oracle(*args)

    def register(fake: Callable[..., Any]) -> None:
        def checked_fake(*args: Any) -> Any:
            checks(*args)
            return fake(*args)

        torch.library.register_fake(f"hashdl::{name}", checked_fake, lib=_LIBRARY)

    _LIBRARY.impl(name, default_kernel, "CompositeExplicitAutograd")
    _count_versions(name)
    return register


def has_cuda_kernel(name: str) -> bool:
    """Whether an op has a compiled kernel for CUDA tensors."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"hashdl::{name}", "CUDA")


def _count_versions(name: str) -> None:
    """Have an op count up ``_version`` of what it mutates, as torch's in-place ops do.

    Autograd (saved tensors) and HashTables (stale tables) tell by it that a tensor has changed.
    """
    op = getattr(kernels, name).default
    aliases = [argument.alias_info for argument in op._schema.arguments]
    mutated = [i for i, alias in enumerate(aliases) if alias is not None and alias.is_write]
    if not mutated:
        return

    def counting(keyset: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowADInplaceOrView():
            result = op.redispatch(keyset & torch._C._after_ADInplaceOrView_keyset, *args)
        changed = [args[i] for i in mutated if args[i] is not None]
        torch.autograd.graph.increment_version(changed)
        return result

    _LIBRARY.impl(name, counting, "ADInplaceOrView", with_keyset=True)


def define_stateful(schema: str, kernel: Callable[..., None]) -> Callable[..., None]:
    """Define an op that only mutates its arguments, implemented in Python by its owner.

    A compiled graph then holds it as one opaque node, whatever it decides as it runs.

    Returns:
        What calls it. To plain tensors the kernel is applied as it stands: a step in which it finds
        nothing to do would spend most of its time on the way there.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    _count_versions(name)
    torch.library.register_fake(f"hashdl::{name}", lambda *args: None, lib=_LIBRARY)
    op = getattr(kernels, name)

    def call(*args: Any) -> None:
        if _is_plain(args[0]):
            with torch.no_grad():
                kernel(*args)
        else:
            op(*args)

    return call


def _is_plain(*tensors: Tensor) -> bool:
    """Whether nothing but torch's own eager mode has to see what is done with some tensors."""
    return (
        not torch.compiler.is_compiling()
        and all(type(one) in (Tensor, nn.Parameter) and not one.is_meta for one in tensors)
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0  # a default device, for one
        and not torch._C._functorch.peek_interpreter_stack()
    )


def define_differentiable(
    schema: str,
    *,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any],
    setup_context: Callable[..., None],
) -> Callable[..., Any]:
    """Define an op that is made of other ops and has a gradient.

    Returns:
        What calls it. With plain tensors autograd is told of the kernel as it stands: the way of an
        op there and back takes as long as a small kernel.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"hashdl::{name}", fake, lib=_LIBRARY)
    make_differentiable(name, backward, setup_context)
    op = getattr(kernels, name)

    def forward(ctx: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():  # as around the kernel of an op
            output = kernel(*args)
        setup_context(ctx, args, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(name, (torch.autograd.Function,), members)

    def call(*args: Any) -> Any:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        return function.apply(*args) if _is_plain(*tensors) else op(*args)

    return call


def make_differentiable(
    name: str, backward: Callable[..., Any], setup_context: Callable[..., None]
) -> None:
    """Give an op its gradient."""
    torch.library.register_autograd(
        f"hashdl::{name}", backward, setup_context=setup_context, lib=_LIBRARY
    )
