"""What arguments may be, and the checks that ops share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

#: Most bits of a table's code: 2^K buckets are counted in int32.
MAX_BITS = 24
#: What a full bucket keeps: see :func:`limit_buckets`.
REPLACEMENTS = ("fifo", "reservoir")
#: What candidates are ranked by: see :func:`find_active`.
SELECTIONS = ("exact", "sketch", "frequency", "threshold", "union")
#: Bits of a coordinate of a sketch, by its levels: see :func:`sketch_scores`.
SKETCH_LEVELS = {2: 1, 16: 4}
#: What projections tell of the buckets to probe: see :func:`search`.
PROBINGS = ("signs", "columns")
FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check(ok: Any, op: str, argument: str, what: str) -> None:
    """Raise a RuntimeError that names op and argument, unless ``ok``."""
    if not ok:
        raise RuntimeError(f"hashdl::{op}: {argument}: {what}")


def check_shape(tensor: Tensor, wanted: tuple[Any, ...], op: str, argument: str) -> None:
    """A shape; None stands for any size."""
    same = tensor.dim() == len(wanted) and all(
        size is None or size == have for size, have in zip(wanted, tensor.shape, strict=True)
    )
    if not same:
        text = ", ".join("*" if size is None else str(size) for size in wanted)
        text = f"({text},)" if len(wanted) == 1 else f"({text})"
        check(False, op, argument, f"got shape {tuple(tensor.shape)}, wanted {text}")


def check_dtype(tensor: Tensor, dtype: torch.dtype, op: str, argument: str) -> None:
    """One dtype."""
    got, wanted = str(tensor.dtype)[6:], str(dtype)[6:]
    check(tensor.dtype == dtype, op, argument, f"got dtype {got}, wanted {wanted}")


def check_floating(tensor: Tensor, op: str, argument: str) -> None:
    """One of the four dtypes of weights and inputs."""
    check(
        tensor.dtype in FLOATING,
        op,
        argument,
        f"got dtype {str(tensor.dtype)[6:]}, wanted float32, float64, bfloat16 or float16",
    )


def check_ids(tensor: Tensor, shape: tuple[Any, ...], op: str, argument: str) -> None:
    """int32 row ids of a shape."""
    check_dtype(tensor, torch.int32, op, argument)
    check_shape(tensor, shape, op, argument)


def check_bias(op: str, weight: Tensor, bias: Tensor | None) -> None:
    """A bias (N,) of the weight's dtype, if there is one."""
    if bias is not None:
        check_dtype(bias, weight.dtype, op, "bias")
        check_shape(bias, (weight.shape[0],), op, "bias")


def check_at_least(value: int, lowest: int, op: str, argument: str) -> None:
    """An int from ``lowest`` on."""
    check(value >= lowest, op, argument, f"got {value}, wanted {lowest} or more")


def check_n_rows(n_rows: int, op: str) -> None:
    """N, so that row ids fit into int32."""
    check(1 <= n_rows < 2**31, op, "n_rows", f"got {n_rows}, wanted 1 to 2^31 - 1")


def check_bits(bits: int, op: str) -> None:
    """K, so that buckets can be counted in int32."""
    check(1 <= bits <= MAX_BITS, op, "bits", f"got {bits}, wanted 1 to {MAX_BITS}")


def check_one_element(tensor: Tensor, op: str, name: str) -> None:
    """A tensor of one element."""
    check(tensor.numel() == 1, op, name, f"got shape {tuple(tensor.shape)}, wanted one element")


def check_step(step: Tensor, op: str) -> None:
    """A count of steps: int64, one element."""
    check_dtype(step, torch.int64, op, "step")
    check_one_element(step, op, "step")


def check_in_place(op: str, tensor: Tensor, argument: str) -> None:
    """What is updated in place has no gaps in memory."""
    what = "got a non-contiguous tensor; it is updated in place"
    check(tensor.is_contiguous(), op, argument, what)


def check_mode(op: str) -> None:
    """No mode but eager backward passes, or a compiler's.

    Forward-mode differentiation would take outputs for constants; functorch knows no rule.
    """
    if torch.compiler.is_compiling():
        return
    if forward_ad._current_level >= 0:
        raise RuntimeError(
            f"hashdl::{op}: got forward-mode differentiation (jvp), wanted backward passes"
        )
    if torch._C._functorch.maybe_current_level() is not None:
        raise RuntimeError(
            f"hashdl::{op}: got a transform of torch.func (grad, vmap, ...), wanted backward "
            "passes (loss.backward(), torch.autograd.grad)"
        )
