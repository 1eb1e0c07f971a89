"""The contract of every op: schema, checks, shapes (the fake kernel), and a typed function.

B samples, N rows, d features, L tables, K bits a table, P probes, C candidates, A active rows,
M labels a sample, T rows shared by the batch, U distinct rows. Row ids are int32; -1 is padding.

The plain-torch implementation of each op (:mod:`hashdl.reference`) is registered for every device;
``hashdl._C`` overrides it with compiled CPU kernels. Checks on a tensor's *values* (ids in range,
finite projections) are made where the values are at hand: in the kernels and in the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hashdl import reference
from hashdl.precision import own_dtype

_LIBRARY = torch.library.Library("hashdl", "DEF")
_ops = torch.ops.hashdl
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


def _op(schema: str, checks: Callable[..., None]) -> Callable[[Callable[..., Any]], None]:
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
    op = getattr(_ops, name).default
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
    op = getattr(_ops, name)

    def call(*args: Any) -> None:
        if _is_plain(args[0]):
            with torch.no_grad():
                kernel(*args)
        else:
            op(*args)

    return call


def _is_plain(tensor: Tensor) -> bool:
    """Whether nothing but torch's own eager mode has to see what is done with a tensor."""
    return (
        not torch.compiler.is_compiling()
        and type(tensor) is Tensor
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._functorch.peek_interpreter_stack()
    )


def define_differentiable(
    schema: str,
    *,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any],
    setup_context: Callable[..., None],
) -> None:
    """Define an op that is made of other ops and has a gradient."""
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"hashdl::{name}", fake, lib=_LIBRARY)
    make_differentiable(name, backward, setup_context)


def make_differentiable(
    name: str, backward: Callable[..., Any], setup_context: Callable[..., None]
) -> None:
    """Give an op its gradient."""
    torch.library.register_autograd(
        f"hashdl::{name}", backward, setup_context=setup_context, lib=_LIBRARY
    )


# ---- checks that ops share ---------------------------------------------------------------------


def _check(ok: Any, op: str, argument: str, what: str) -> None:
    if not ok:
        raise RuntimeError(f"hashdl::{op}: {argument}: {what}")


def _check_shape(tensor: Tensor, wanted: tuple[Any, ...], op: str, argument: str) -> None:
    same = tensor.dim() == len(wanted) and all(
        size is None or size == have for size, have in zip(wanted, tensor.shape, strict=True)
    )
    if not same:
        text = ", ".join("*" if size is None else str(size) for size in wanted)
        text = f"({text},)" if len(wanted) == 1 else f"({text})"
        _check(False, op, argument, f"got shape {tuple(tensor.shape)}, wanted {text}")


def _check_dtype(tensor: Tensor, dtype: torch.dtype, op: str, argument: str) -> None:
    got, wanted = str(tensor.dtype)[6:], str(dtype)[6:]
    _check(tensor.dtype == dtype, op, argument, f"got dtype {got}, wanted {wanted}")


def _check_floating(tensor: Tensor, op: str, argument: str) -> None:
    _check(
        tensor.dtype in FLOATING,
        op,
        argument,
        f"got dtype {str(tensor.dtype)[6:]}, wanted float32, float64, bfloat16 or float16",
    )


def _check_ids(tensor: Tensor, shape: tuple[Any, ...], op: str, argument: str) -> None:
    _check_dtype(tensor, torch.int32, op, argument)
    _check_shape(tensor, shape, op, argument)


def _check_at_least(value: int, lowest: int, op: str, argument: str) -> None:
    _check(value >= lowest, op, argument, f"got {value}, wanted {lowest} or more")


def _check_n_rows(n_rows: int, op: str) -> None:
    _check(1 <= n_rows < 2**31, op, "n_rows", f"got {n_rows}, wanted 1 to 2^31 - 1")


def _check_bits(bits: int, op: str) -> None:
    _check(1 <= bits <= MAX_BITS, op, "bits", f"got {bits}, wanted 1 to {MAX_BITS}")


def _check_one_element(tensor: Tensor, op: str, name: str) -> None:
    _check(tensor.numel() == 1, op, name, f"got shape {tuple(tensor.shape)}, wanted one element")


def _check_step(step: Tensor, op: str) -> None:
    _check_dtype(step, torch.int64, op, "step")
    _check_one_element(step, op, "step")


# ---- pack_signs --------------------------------------------------------------------------------


def _check_sign_projections(projections: Tensor, bits: int, op: str) -> None:
    _check(1 <= bits <= 32, op, "bits", f"got {bits}, wanted 1 to 32")
    _check_columns(projections, bits, op, "projections", "bits")


def _check_columns(values: Tensor, divisor: int, op: str, argument: str, name: str) -> None:
    """float32 (M, a multiple of the divisor)."""
    _check_dtype(values, torch.float32, op, argument)
    _check_shape(values, (None, None), op, argument)
    shape = tuple(values.shape)
    what = f"got shape {shape}, wanted (*, multiple of {name} = {divisor})"
    _check(shape[1] % divisor == 0, op, argument, what)


def _check_pack_signs(projections: Tensor, bits: int) -> None:
    _check_sign_projections(projections, bits, "pack_signs")


@_op("pack_signs(Tensor projections, int bits) -> Tensor", _check_pack_signs)
def _(projections: Tensor, bits: int) -> Tensor:
    M, LK = projections.shape
    return projections.new_empty((M, LK // bits), dtype=torch.int32)


def pack_signs(projections: Tensor, bits: int) -> Tensor:
    r"""Codes from signs: :math:`c_{ml} = \sum_k [p_{m,lK+k} > 0] \, 2^k`.

    Args:
        projections: float32 (M, L K); NaN and infinities are refused.
        bits: K, 1 to 32.

    Returns:
        codes: int32 (M, L).

    Examples:
        >>> pack_signs(torch.tensor([[1.0, -1.0, 2.0, 3.0]]), 2)
        tensor([[1, 3]], dtype=torch.int32)
    """
    codes: Tensor = _ops.pack_signs(projections, bits)
    return codes


# ---- pack_digits, probe_digits -----------------------------------------------------------------


def _check_digits(projections: Tensor, bits: int, op: str) -> int:
    """L, the codes of a row."""
    _check_bits(bits, op)
    _check_dtype(projections, torch.float32, op, "projections")
    _check_shape(projections, (None, None), op, "projections")
    slots, width = sum(reference.slots_of(bits)), projections.shape[1]
    wanted = f"wanted (*, multiple of {slots}), the slots of {bits} bits"
    what = f"got shape {tuple(projections.shape)}, {wanted}"
    _check(width % slots == 0, op, "projections", what)
    return width // slots


def _check_pack_digits(projections: Tensor, bits: int) -> None:
    _check_digits(projections, bits, "pack_digits")


@_op("pack_digits(Tensor projections, int bits) -> Tensor", _check_pack_digits)
def _(projections: Tensor, bits: int) -> Tensor:
    L = _check_digits(projections, bits, "pack_digits")
    return projections.new_empty((projections.shape[0], L), dtype=torch.int32)


def pack_digits(projections: Tensor, bits: int) -> Tensor:
    r"""Codes from digits: :math:`c = \sum_i 8^i \arg\max_s p_{is}`.

    A code has :math:`\lfloor K/3 \rfloor` digits of 3 bits, each the slot of 8 that holds the
    largest value (ties: the lowest such slot), and one of the r bits that are left, with
    :math:`2^r` slots: S slots together.

    Args:
        projections: float32 (M, L S), the slots' values; NaN and infinities are refused.
        bits: K, 1 to 24.

    Returns:
        codes: int32 (M, L).

    Examples:
        >>> pack_digits(torch.tensor([[0.0, 5.0, 1.0, 0.0]]), 2)
        tensor([[1]], dtype=torch.int32)
    """
    codes: Tensor = _ops.pack_digits(projections, bits)
    return codes


def _check_probe_digits(projections: Tensor, bits: int, probes: int) -> None:
    _check_digits(projections, bits, "probe_digits")
    _check_at_least(probes, 1, "probe_digits", "probes")


@_op("probe_digits(Tensor projections, int bits, int probes) -> Tensor", _check_probe_digits)
def _(projections: Tensor, bits: int, probes: int) -> Tensor:
    L = _check_digits(projections, bits, "probe_digits")
    shape = (projections.shape[0], L, min(probes, 2**bits))
    return projections.new_empty(shape, dtype=torch.int32)


def probe_digits(projections: Tensor, *, bits: int, probes: int) -> Tensor:
    """The codes most like those of :func:`pack_digits`: query-directed multiprobe for digits.

    Probe 0 is the own code. In the others some digits name another slot, each at the cost of the
    square of what its value lacks of the largest one; cheapest sums first, as Lv et al. (VLDB
    2007, section 4.3) do it for hyperplanes.

    Args:
        projections: float32 (B, L S), see :func:`pack_digits`.
        bits: K, 1 to 24.
        probes: P.

    Returns:
        buckets: int32 (B, L, min(P, 2^K)), distinct in a table.

    Examples:
        >>> probe_digits(torch.tensor([[0.0, 5.0, 1.0, 0.5]]), bits=2, probes=3)
        tensor([[[1, 2, 3]]], dtype=torch.int32)
    """
    buckets: Tensor = _ops.probe_digits(projections, bits, probes)
    return buckets


# ---- densified_projections ---------------------------------------------------------------------


def _check_densified_projections(vectors: Tensor, functions: Tensor) -> None:
    op = "densified_projections"
    _check_dtype(vectors, torch.float32, op, "vectors")
    _check_shape(vectors, (None, None), op, "vectors")
    _check_ids(functions, (None, None), op, "functions")
    what = f"got shape {tuple(functions.shape)}, wanted two rows or more"
    _check(functions.shape[0] >= 2, op, "functions", what)


@_op(
    "densified_projections(Tensor vectors, Tensor functions) -> Tensor",
    _check_densified_projections,
)
def _(vectors: Tensor, functions: Tensor) -> Tensor:
    return vectors.new_empty((vectors.shape[0], functions.shape[1]))


def densified_projections(vectors: Tensor, functions: Tensor) -> Tensor:
    """Slots' values of digits, for sparse vectors: a digit whose slots are all zero borrows.

    Each row of ``functions`` after the first is an attempt: the coordinates that the slots hold.
    The first attempt counts that meets a coordinate which is not zero; its zeros become the lowest
    float32, so that any other coordinate wins. Where no attempt meets any, the vector's largest
    coordinate alone gets a slot, by a random function of its place. Vectors of zeros give zeros.
    (Densified WTA: Chen and Shrivastava, UAI 2018, section 4.)

    Args:
        vectors: float32 (M, D); NaN and infinities are refused.
        functions: int32 (1 + T, C): first 1 where the slots of a digit begin, else 0; then the
            coordinates at each of T attempts, in [0, D).

    Returns:
        projections: float32 (M, C), for :func:`pack_digits`.

    Examples:
        >>> functions = torch.tensor([[1, 0], [0, 1], [2, 0]], dtype=torch.int32)
        >>> densified_projections(torch.tensor([[0.0, 0.0, 7.0], [1.0, 2.0, 3.0]]), functions)
        tensor([[ 7.0000e+00, -3.4028e+38],
                [ 1.0000e+00,  2.0000e+00]])
    """
    projections: Tensor = _ops.densified_projections(vectors, functions)
    return projections


# ---- hadamard_projections ----------------------------------------------------------------------


def _check_hadamard_projections(vectors: Tensor, functions: Tensor) -> None:
    op = "hadamard_projections"
    _check_dtype(vectors, torch.float32, op, "vectors")
    _check_shape(vectors, (None, None), op, "vectors")
    _check_ids(functions, (2, None), op, "functions")


@_op(
    "hadamard_projections(Tensor vectors, Tensor functions) -> Tensor", _check_hadamard_projections
)
def _(vectors: Tensor, functions: Tensor) -> Tensor:
    return vectors.new_empty((vectors.shape[0], functions.shape[1]))


def hadamard_projections(vectors: Tensor, functions: Tensor) -> Tensor:
    r"""Structured random projections, in :math:`O(n \log n)` for n of them.

    .. math:: p = \frac{1}{n} \left[ H D_3 H D_2 H D_1 v \right]_{f}

    with v padded with zeros to n coordinates, a power of two; H the Walsh-Hadamard transform, and
    :math:`D_i` random signs (Andoni et al., NeurIPS 2015, section 5). Functions of one block, those
    side by side with one key, share the signs. The mean square of a block's n projections is
    :math:`|v|^2`.

    Args:
        vectors: float32 (M, D).
        functions: int32 (2, C): key of the signs; coordinate of the transform, in [0, n).

    Returns:
        projections: float32 (M, C).

    Examples:
        >>> functions = torch.tensor([[5, 5], [0, 1]], dtype=torch.int32)
        >>> hadamard_projections(torch.tensor([[3.0, 4.0]]), functions).norm(dim=1) / 2**0.5
        tensor([5.])
    """
    projections: Tensor = _ops.hadamard_projections(vectors, functions)
    return projections


# ---- build_tables ------------------------------------------------------------------------------


def _check_build_tables(codes: Tensor, bits: int) -> None:
    _check_bits(bits, "build_tables")
    _check_ids(codes, (None, None), "build_tables", "codes")


@_op("build_tables(Tensor codes, int bits) -> (Tensor, Tensor)", _check_build_tables)
def _(codes: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    L, N = codes.shape
    return codes.new_empty((L, 2**bits + 1)), codes.new_empty((L, N))


def build_tables(codes: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Tables by counting sort: the rows of each bucket, ascending, one bucket after the other.

    Args:
        codes: int32 (L, N), a table a row, each in [0, 2^K).
        bits: K.

    Returns:
        offsets: int32 (L, 2^K + 1); bucket c of table l is rows[l] from offsets[l, c] up to
            offsets[l, c + 1].
        rows: int32 (L, N).
    """
    offsets, rows = _ops.build_tables(codes, bits)
    return offsets, rows


# ---- limit_buckets -----------------------------------------------------------------------------


def _check_limit_buckets(
    offsets: Tensor, rows: Tensor, capacity: int, replacement: str, seed: int, first_table: int
) -> None:
    op = "limit_buckets"
    _check_tables(offsets, rows, op)
    _check_at_least(capacity, 1, op, "capacity")
    wanted = f"got {replacement!r}, wanted one of {list(REPLACEMENTS)}"
    _check(replacement in REPLACEMENTS, op, "replacement", wanted)


def _check_tables(offsets: Tensor, rows: Tensor, op: str) -> None:
    _check_ids(rows, (None, None), op, "rows")
    _check_ids(offsets, (rows.shape[0], None), op, "offsets")
    what = f"got shape {tuple(offsets.shape)}, wanted (L, buckets + 1)"
    _check(offsets.shape[1] >= 1, op, "offsets", what)


@_op(
    "limit_buckets(Tensor offsets, Tensor rows, int capacity, str replacement, int seed, "
    "int first_table) -> (Tensor, Tensor)",
    _check_limit_buckets,
)
def _(
    offsets: Tensor, rows: Tensor, capacity: int, replacement: str, seed: int, first_table: int
) -> tuple[Tensor, Tensor]:
    L, N = rows.shape
    width = reference.limited_width(N, offsets.shape[1] - 1, capacity)
    return torch.empty_like(offsets), rows.new_empty((L, width))


def limit_buckets(
    offsets: Tensor,
    rows: Tensor,
    *,
    capacity: int,
    replacement: str,
    seed: int,
    first_table: int = 0,
) -> tuple[Tensor, Tensor]:
    """Tables whose buckets keep at most ``capacity`` rows; rows arrive in ascending order.

    ``"fifo"`` keeps the newest arrivals. ``"reservoir"`` keeps each arrival with the same
    probability: the i-th one is taken with probability capacity / i, for a uniform slot (Vitter,
    *Random sampling with a reservoir*, ACM TOMS 1985, algorithm R). The draws follow from the
    seed, the table and the bucket.

    Args:
        offsets: int32 (L, buckets + 1), of :func:`build_tables`.
        rows: int32 (L, N), of :func:`build_tables`.
        capacity: 1 or more.
        replacement: ``"fifo"`` or ``"reservoir"``.
        seed: of the draws.
        first_table: number of the first of these tables, for the draws.

    Returns:
        offsets: int32 (L, buckets + 1).
        rows: int32 (L, min(N, capacity buckets)), -1 after the last bucket. The rows of a bucket
        ascend; those of a reservoir that was full stand in their slots.

    Examples:
        >>> codes = torch.tensor([[1, 0, 1, 1, 1]], dtype=torch.int32)
        >>> offsets, rows = build_tables(codes, 1)
        >>> limit_buckets(offsets, rows, capacity=2, replacement="fifo", seed=0)
        (tensor([[0, 1, 3]], dtype=torch.int32), tensor([[ 1,  3,  4, -1]], dtype=torch.int32))
    """
    limited: tuple[Tensor, Tensor] = _ops.limit_buckets(
        offsets, rows, capacity, replacement, seed, first_table
    )
    return limited


# ---- mark_rows_ --------------------------------------------------------------------------------


def _check_mark_rows_(dirty: Tensor, rows: Tensor, bits: int) -> None:
    op = "mark_rows_"
    _check_dtype(dirty, torch.uint8, op, "dirty")
    _check_shape(dirty, (None,), op, "dirty")
    _check_in_place(op, dirty, "dirty")
    _check_dtype(rows, torch.int32, op, "rows")
    _check(0 <= bits <= 255, op, "bits", f"got {bits}, wanted 0 to 255")


@_op("mark_rows_(Tensor(a!) dirty, Tensor rows, int bits) -> ()", _check_mark_rows_)
def _(*args: Any) -> None:
    return None


def mark_rows_(dirty: Tensor, rows: Tensor, bits: int) -> None:
    """Note of some rows that they are about to change: ``dirty[r] = bits``, in place.

    Args:
        dirty: uint8 (N,), contiguous.
        rows: int32 of any shape, -1 = none; rows may repeat.
        bits: 0 to 255.
    """
    _ops.mark_rows_(dirty, rows, bits)


# ---- probe_signs -------------------------------------------------------------------------------


def _check_probe_signs(projections: Tensor, bits: int, probes: int) -> None:
    op = "probe_signs"
    _check_bits(bits, op)
    _check_sign_projections(projections, bits, op)
    _check_at_least(probes, 1, op, "probes")


@_op("probe_signs(Tensor projections, int bits, int probes) -> Tensor", _check_probe_signs)
def _(projections: Tensor, bits: int, probes: int) -> Tensor:
    B, LK = projections.shape
    shape = (B, LK // bits, min(probes, 2**bits))
    return projections.new_empty(shape, dtype=torch.int32)


def probe_signs(projections: Tensor, *, bits: int, probes: int) -> Tensor:
    """Buckets that a query probes in tables of sign codes, most likely first.

    The first is the query's own (:func:`pack_signs`); the others flip the bits whose projections
    have the smallest sum of squares (query-directed multiprobe, Lv et al., VLDB 2007,
    section 4.3).

    Args:
        projections: float32 (B, L K) of the queries; NaN and infinities are refused.
        bits: K, 1 to 24.
        probes: P; at most 2^K buckets are there.

    Returns:
        buckets: int32 (B, L, P).

    Examples:
        >>> probe_signs(torch.tensor([[3.0, -1.0]]), bits=2, probes=3)
        tensor([[[1, 3, 0]]], dtype=torch.int32)
    """
    buckets: Tensor = _ops.probe_signs(projections, bits, probes)
    return buckets


# ---- best_columns ------------------------------------------------------------------------------


def _check_best_columns(scores: Tensor, groups: int, count: int) -> None:
    op = "best_columns"
    _check_at_least(groups, 1, op, "groups")
    _check_at_least(count, 1, op, "count")
    _check_columns(scores, groups, op, "scores", "groups")
    _check(scores.shape[1] > 0, op, "scores", "got no columns")


@_op("best_columns(Tensor scores, int groups, int count) -> Tensor", _check_best_columns)
def _(scores: Tensor, groups: int, count: int) -> Tensor:
    M, GW = scores.shape
    shape = (M, groups, min(count, GW // groups))
    return scores.new_empty(shape, dtype=torch.int32)


def best_columns(scores: Tensor, *, groups: int, count: int) -> Tensor:
    """The columns with the largest scores in each group of columns.

    Args:
        scores: float32 (M, G W), W columns a group; NaN and infinities are refused.
        groups: G.
        count: P; at most W columns are there.

    Returns:
        columns: int32 (M, G, P) in [0, W), best first, ties to the lower column.

    Examples:
        >>> best_columns(torch.tensor([[1.0, 5.0, 2.0, 7.0, 7.0, 0.0]]), groups=2, count=2)
        tensor([[[1, 2],
                 [0, 1]]], dtype=torch.int32)
    """
    columns: Tensor = _ops.best_columns(scores, groups, count)
    return columns


# ---- lookup ------------------------------------------------------------------------------------


def _check_lookup(
    buckets: Tensor,
    offsets: Tensor,
    rows: Tensor,
    cap: int,
    candidates: int,
    seed: int,
    step: Tensor,
    op: str = "lookup",
) -> None:
    _check_tables(offsets, rows, op)
    _check_ids(buckets, (None, rows.shape[0], None), op, "buckets")
    _check_at_least(cap, 1, op, "cap")
    _check_at_least(candidates, 0, op, "candidates")
    _check_step(step, op)


@_op(
    "lookup(Tensor buckets, Tensor offsets, Tensor rows, int cap, int candidates, int seed, "
    "Tensor step) -> (Tensor, Tensor)",
    _check_lookup,
)
def _(
    buckets: Tensor,
    offsets: Tensor,
    rows: Tensor,
    cap: int,
    candidates: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    B = buckets.shape[0]
    return rows.new_empty((B, candidates)), rows.new_empty((B, candidates))


def lookup(
    buckets: Tensor,
    offsets: Tensor,
    rows: Tensor,
    *,
    cap: int,
    candidates: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    """Distinct rows in the probed buckets, and how many of those buckets each stands in.

    All tables' first probes are read before their second ones, and so on: where there are more than
    C rows, what is left out comes from the least likely buckets.

    Args:
        buckets: int32 (B, L, P), the buckets to probe, most likely first; -1 = none. A family's
            ``probe`` gives them (:class:`hashdl.hashing.Family`).
        offsets: int32 (L, 2^K + 1), of :func:`build_tables`.
        rows: int32 (L, N), of :func:`build_tables`, or fewer of :func:`limit_buckets`.
        cap: most rows read from one bucket, from a random place on, around its end.
        candidates: C, most rows kept a sample.
        seed: of the random places.
        step: int64, one element: another step, other random places.

    Returns:
        candidates: int32 (B, C) in order of discovery, padded with -1.
        hits: int32 (B, C), 0 at padding.
    """
    found, hits = _ops.lookup(buckets, offsets, rows, cap, candidates, seed, step)
    return found, hits


# ---- sketch_scores -----------------------------------------------------------------------------


def _check_sketch(queries: Tensor, sketches: Tensor, norms: Tensor | None, B: int, op: str) -> None:
    if norms is None:
        _check_dtype(sketches, torch.float32, op, "sketches")
        _check_shape(sketches, (None, None), op, "sketches")
        S = sketches.shape[1]
    else:
        _check_ids(sketches, (None, None), op, "sketches")
        _check_dtype(norms, torch.float32, op, "norms")
        _check_shape(norms, (sketches.shape[0],), op, "norms")
        leveled = queries.dim() == 2 and reference.has_levels(queries, sketches)
        S = (8 if leveled else 32) * sketches.shape[1]
    _check_dtype(queries, torch.float32, op, "sketch_queries")
    _check_shape(queries, (B, S), op, "sketch_queries")


def _check_sketch_scores(
    sketch_queries: Tensor, sketches: Tensor, norms: Tensor | None, candidates: Tensor
) -> None:
    op = "sketch_scores"
    _check_ids(candidates, (None, None), op, "candidates")
    _check_sketch(sketch_queries, sketches, norms, candidates.shape[0], op)


@_op(
    "sketch_scores(Tensor sketch_queries, Tensor sketches, Tensor? norms, Tensor candidates) "
    "-> Tensor",
    _check_sketch_scores,
)
def _(sketch_queries: Tensor, sketches: Tensor, norms: Tensor | None, candidates: Tensor) -> Tensor:
    return candidates.new_empty(candidates.shape, dtype=torch.float32)


def sketch_scores(
    sketch_queries: Tensor, sketches: Tensor, norms: Tensor | None, candidates: Tensor
) -> Tensor:
    r"""Inner products of candidates and queries, estimated from sketches of the rows.

    From sign bits of their projections,

    .. math:: s_{bc} = |v_r| \sum_{k=1}^{S} \operatorname{sign}(\langle p_k, v_r \rangle) \,
        \langle p_k, q_b \rangle, \qquad r = c_{bc}

    Its expectation over random directions p is proportional to the inner product of v and q
    (Dong, Charikar and Li, *Asymmetric distance estimation with sketches*, SIGIR 2008, section 4);
    the query keeps its projections, the row has one bit of each. Where there are but S = 8 W
    projections for W words a row, the row has four bits of each: with levels l of 0 to 15,

    .. math:: s_{bc} = |v_r| \sum_{k=1}^{S} (2 l_{rk} - 15) \, \delta_b
        \operatorname{round}(\langle p_k, q_b \rangle / \delta_b), \qquad
        \delta_b = \max_k |\langle p_k, q_b \rangle| / 127,

    so that all sums are of integers (:mod:`hashdl.hashing.sketching`). Or, without ``norms``, from
    some coordinates as they are: :math:`s_{bc} = \sum_k \langle p_k, v_r \rangle \,
    \langle q_k, x_b \rangle`, as of :mod:`hashdl.hashing.lowrank`.

    Args:
        sketch_queries: float32 (B, S), projections of the queries.
        sketches: int32 (N, S / 32), sign bits of the rows: :func:`pack_signs` with 32 bits; or
            int32 (N, S / 8), levels, the first in the lowest bits of a word; or float32 (N, S),
            their projections.
        norms: float32 (N,), lengths of the rows; None for projections.
        candidates: int32 (B, C), -1 = none.

    Returns:
        scores: float32 (B, C), 0 at padding.

    Examples:
        >>> queries = torch.ones(1, 32)
        >>> sketches = torch.tensor([[-1], [0b111]], dtype=torch.int32)  # 32 and 3 bits set
        >>> candidates = torch.tensor([[0, 1, -1]], dtype=torch.int32)
        >>> sketch_scores(queries, sketches, torch.tensor([1.0, 2.0]), candidates)
        tensor([[ 32., -52.,   0.]])
    """
    scores: Tensor = _ops.sketch_scores(sketch_queries, sketches, norms, candidates)
    return scores


# ---- select ------------------------------------------------------------------------------------


def _check_select(
    candidates: Tensor,
    scores: Tensor | None,
    labels: Tensor | None,
    shared: Tensor | None,
    active: int,
    random: int,
    n_rows: int,
    seed: int,
    step: Tensor,
    op: str = "select",
) -> None:
    _check_ids(candidates, (None, None), op, "candidates")
    _check(0 <= random <= active, op, "random", f"got {random}, wanted 0 to active = {active}")
    _check_n_rows(n_rows, op)
    if scores is not None:
        _check_dtype(scores, torch.float32, op, "scores")
        _check_shape(scores, tuple(candidates.shape), op, "scores")
    if labels is not None:
        _check_ids(labels, (candidates.shape[0], None), op, "labels")
    if shared is not None:
        _check_ids(shared, (None,), op, "shared")
    _check_step(step, op)


@_op(
    "select(Tensor candidates, Tensor? scores, Tensor? labels, Tensor? shared, int active, "
    "int random, int n_rows, int seed, Tensor step) -> Tensor",
    _check_select,
)
def _(
    candidates: Tensor,
    scores: Tensor | None,
    labels: Tensor | None,
    shared: Tensor | None,
    active: int,
    random: int,
    n_rows: int,
    seed: int,
    step: Tensor,
) -> Tensor:
    M = 0 if labels is None else labels.shape[1]
    return candidates.new_empty((candidates.shape[0], M + active))


def select(
    candidates: Tensor,
    scores: Tensor | None = None,
    labels: Tensor | None = None,
    shared: Tensor | None = None,
    *,
    active: int,
    random: int = 0,
    n_rows: int,
    seed: int,
    step: Tensor,
) -> Tensor:
    """The active set of each sample: labels, the best candidates, and uniform random rows.

    Args:
        candidates: int32 (B, C), distinct within a sample, -1 = none.
        scores: float32 (B, C), higher is better, ties to the earlier column; None: all equal.
        labels: int32 (B, M), -1 = none: always active.
        shared: int32 (T,), -1 = none: rows that the whole batch has already, never selected.
        active: A, rows a sample beside its labels.
        random: R of these are drawn uniformly from all N rows.
        n_rows: N.
        seed: of the draws.
        step: int64, one element: another step, other draws.

    Returns:
        rows: int32 (B, M + A): M labels in their own columns, A - R candidates in order of
        discovery, R draws. A row stands once in a sample; what repeats or is shared is -1.
    """
    rows: Tensor = _ops.select(
        candidates, scores, labels, shared, active, random, n_rows, seed, step
    )
    return rows


# ---- find_active -------------------------------------------------------------------------------


def _check_find_active(
    buckets: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_queries: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    shared: Tensor | None,
    cap: int,
    candidates: int,
    selection: str,
    threshold: int,
    active: int,
    random: int,
    seed: int,
    step: Tensor,
    op: str = "find_active",
) -> None:
    wanted = f"got {selection!r}, wanted one of {list(SELECTIONS)}"
    _check(selection in SELECTIONS, op, "selection", wanted)
    _check_lookup(buckets, offsets, table_rows, cap, candidates, seed, step, op=op)
    found = buckets.new_empty((buckets.shape[0], candidates), device="meta")
    _check_layer(op, x, weight, found)
    _check_bias(op, weight, bias)
    n_rows = weight.shape[0]
    if selection == "sketch":
        what = "got None, wanted sketch_queries and sketches for selection 'sketch'"
        if sketch_queries is None or sketches is None:
            raise RuntimeError(f"hashdl::{op}: sketches: {what}")
        _check_sketch(sketch_queries, sketches, norms, buckets.shape[0], op)
        rows = sketches.shape[0]
        _check(rows == n_rows, op, "sketches", f"got {rows} rows, wanted {n_rows}")
    _check_select(found, None, labels, shared, active, random, n_rows, seed, step, op=op)


@_op(
    "find_active(Tensor buckets, Tensor offsets, Tensor table_rows, Tensor? sketch_queries, "
    "Tensor? sketches, Tensor? norms, Tensor x, Tensor weight, Tensor? bias, Tensor? labels, "
    "Tensor? shared, int cap, int candidates, str selection, int threshold, int active, "
    "int random, int seed, Tensor step) -> (Tensor, Tensor)",
    _check_find_active,
)
def _(
    buckets: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_queries: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    shared: Tensor | None,
    cap: int,
    candidates: int,
    selection: str,
    threshold: int,
    active: int,
    random: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], active + (0 if labels is None else labels.shape[1]))
    return table_rows.new_empty(shape), x.new_empty(shape)


def find_active(
    buckets: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_queries: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    labels: Tensor | None = None,
    shared: Tensor | None = None,
    *,
    cap: int,
    candidates: int,
    selection: str,
    threshold: int,
    active: int,
    random: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    """:func:`lookup`, scores of the candidates, :func:`select` and :func:`gather_linear` at once.

    Nothing leaves the cache between them. Not differentiable: its outputs are the forward of
    :func:`hashdl.functional.active_linear`.

    Args:
        buckets: int32 (B, L, P), see :func:`lookup`.
        offsets: int32 (L, 2^K + 1), of :func:`build_tables`.
        table_rows: int32 (L, N), likewise; or fewer, of :func:`limit_buckets`.
        sketch_queries: float32 (B, S), see :func:`sketch_scores`; for ``"sketch"`` alone.
        sketches: int32 (N, S / 32) or (N, S / 8), or float32 (N, S), likewise.
        norms: float32 (N,), or None, likewise.
        x: (B, d) of the weight's dtype.
        weight: (N, d).
        bias: (N,), or None.
        labels: int32 (B, M), see :func:`select`.
        shared: int32 (T,), see :func:`select`.
        cap: see :func:`lookup`.
        candidates: C, see :func:`lookup`.
        selection: what candidates are ranked by: ``"exact"`` their outputs, ``"sketch"``
            :func:`sketch_scores`, ``"frequency"`` hits, ``"threshold"`` hits where there are at
            least ``threshold``, ``"union"`` the order of discovery.
        threshold: see ``selection``.
        active: A, see :func:`select`.
        random: R, see :func:`select`.
        seed: of all draws.
        step: int64, one element.

    Returns:
        rows: int32 (B, M + A), as of :func:`select`.
        z: (B, M + A), their outputs, 0 at padding.
    """
    rows, z = _ops.find_active(
        *(buckets, offsets, table_rows, sketch_queries, sketches, norms),
        *(x, weight, bias, labels, shared),
        *(cap, candidates, selection, threshold, active, random, seed, step),
    )
    return rows, z


# ---- find_best ---------------------------------------------------------------------------------


def _check_find_best(
    buckets: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_queries: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cap: int,
    candidates: int,
    active: int,
    k: int,
    seed: int,
    step: Tensor,
    op: str = "find_best",
) -> None:
    sketch = (sketch_queries, sketches, norms)
    _check_at_least(active, 0, op, "active")
    _check_at_least(k, 0, op, "k")
    selection = "sketch" if any(part is not None for part in sketch) else "exact"
    _check_find_active(
        *(buckets, offsets, table_rows, *sketch, x, weight, bias, None, None),
        *(cap, candidates, selection, 0, max(active, k), 0, seed, step),
        op=op,
    )


@_op(
    "find_best(Tensor buckets, Tensor offsets, Tensor table_rows, Tensor? sketch_queries, "
    "Tensor? sketches, Tensor? norms, Tensor x, Tensor weight, Tensor? bias, int cap, "
    "int candidates, int active, int k, int seed, Tensor step) -> (Tensor, Tensor)",
    _check_find_best,
)
def _(
    buckets: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_queries: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cap: int,
    candidates: int,
    active: int,
    k: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], k)
    return x.new_empty(shape), table_rows.new_empty(shape, dtype=torch.int64)


def find_best(
    buckets: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_queries: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    cap: int,
    candidates: int,
    active: int,
    k: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    """The k largest outputs among what a look-up finds: :func:`find_active`, and its best in order.

    Args:
        buckets: int32 (B, L, P), see :func:`lookup`.
        offsets: int32 (L, 2^K + 1), of :func:`build_tables`.
        table_rows: int32 (L, N), likewise; or fewer, of :func:`limit_buckets`.
        sketch_queries: float32 (B, S), see :func:`sketch_scores`; None together with ``sketches``:
            all candidates are computed.
        sketches: int32 (N, S / 32) or (N, S / 8), or float32 (N, S), likewise.
        norms: float32 (N,), or None, likewise.
        x: (B, d) of the weight's dtype.
        weight: (N, d).
        bias: (N,), or None.
        cap: see :func:`lookup`.
        candidates: C, see :func:`lookup`.
        active: A, how many candidates are computed where sketches rank them: the best, k or more.
        k: outputs wanted.
        seed: of the look-up.
        step: int64, one element.

    Returns:
        values: (B, k), descending, ties to the candidate found first; NaN ranks with -inf, and
            -inf is what pads.
        rows: int64 (B, k), padded with -1.
    """
    values, rows = _ops.find_best(
        *(buckets, offsets, table_rows, sketch_queries, sketches, norms),
        *(x, weight, bias, cap, candidates, active, k, seed, step),
    )
    return values, rows


# ---- search ------------------------------------------------------------------------------------


def _check_functions(op: str, functions: Tensor, x: Tensor, argument: str) -> None:
    _check_ids(functions, (x.shape[1] + 1, None), op, argument)


def _check_search(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    functions: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_functions: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    ordered: bool,
    probing: str,
    bits: int,
    probes: int,
    cap: int,
    candidates: int,
    active: int,
    k: int,
    seed: int,
    step: Tensor,
) -> None:
    op = "search"
    wanted = f"got {probing!r}, wanted one of {list(PROBINGS)}"
    _check(probing in PROBINGS, op, "probing", wanted)
    _check_bits(bits, op)
    _check_at_least(probes, 1, op, "probes")
    _check_input(op, x, weight)
    _check_functions(op, functions, x, "functions")
    width, F = reference.columns_of(probing, bits), functions.shape[1]
    what = f"got shape {tuple(functions.shape)}, wanted columns for tables of {width}"
    _check(F > 0 and F % width == 0, op, "functions", what)
    queries, lengths = None, None
    if any(given is not None for given in (sketch_functions, sketches, norms)):
        if sketch_functions is None or sketches is None or norms is None:
            what = "got None, wanted sketch_functions, sketches and norms"
            raise RuntimeError(f"hashdl::{op}: sketches: {what}")
        _check_functions(op, sketch_functions, x, "sketch_functions")
        _check_ids(norms, (None,), op, "norms")
        shape = (x.shape[0], sketch_functions.shape[1])
        queries = x.new_empty(shape, dtype=torch.float32, device="meta")
        lengths = norms.view(torch.float32)
    fits = queries is not None and offsets.shape[0] == 1 and not x.is_cuda
    what = "got True, wanted False without sketches, for several tables and on a GPU"
    _check(not ordered or fits, op, "ordered", what)
    what = "got True, wanted False for a table that lacks rows"
    _check(not ordered or table_rows.shape[-1] == weight.shape[0], op, "ordered", what)
    buckets = offsets.new_empty((x.shape[0], F // width, 0), device="meta")
    _check_find_best(
        *(buckets, offsets, table_rows, queries, sketches, lengths, x, weight, bias),
        *(cap, candidates, active, k, seed, step),
        op=op,
    )


@_op(
    "search(Tensor x, Tensor weight, Tensor? bias, Tensor functions, Tensor offsets, "
    "Tensor table_rows, Tensor? sketch_functions, Tensor? sketches, Tensor? norms, "
    "bool ordered, str probing, int bits, int probes, int cap, int candidates, int active, int k, "
    "int seed, Tensor step) -> (Tensor, Tensor)",
    _check_search,
)
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    functions: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_functions: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    ordered: bool,
    probing: str,
    bits: int,
    probes: int,
    cap: int,
    candidates: int,
    active: int,
    k: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], k)
    return x.new_empty(shape), table_rows.new_empty(shape, dtype=torch.int64)


def search(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    functions: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_functions: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    *,
    ordered: bool = False,
    probing: str,
    bits: int,
    probes: int,
    cap: int,
    candidates: int,
    active: int,
    k: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    """From queries to their largest outputs: projections, the buckets to probe, :func:`find_best`.

    A single query is asked in the time of a few small ops: hence all of them in one. What is in
    float32 is given as the int32 of its bits, as :class:`hashdl.tables.HashTables` keeps it.

    Args:
        x: (B, d) of the weight's dtype.
        weight: (N, d).
        bias: (N,), or None.
        functions: int32 (d + 1, F), bits of what (x, 1) is multiplied by.
        offsets: int32 (L, 2^K + 1), of :func:`build_tables`.
        table_rows: int32 (L, N), likewise; or fewer, of :func:`limit_buckets`.
        sketch_functions: int32 (d + 1, S), bits of what gives ``sketch_queries``; None together
            with the next two: see :func:`find_best`.
        sketches: int32 (N, S / 32) or (N, S / 8), see :func:`sketch_scores`.
        norms: int32 (N,), bits of the rows' lengths.
        ordered: the i-th sketch and length are of row ``table_rows[0, i]``, so that a bucket's
            are read one after the other. Of one table that has all rows, on the CPU; the answer is
            the same.
        probing: what projections mean: ``"signs"``, F = L K: :func:`probe_signs`; ``"columns"``,
            F = L 2^K: :func:`best_columns`.
        bits: K.
        probes: P.
        cap: see :func:`lookup`.
        candidates: C, see :func:`lookup`.
        active: see :func:`find_best`.
        k: outputs wanted.
        seed: of the look-up.
        step: int64, one element.

    Returns:
        values: (B, k), see :func:`find_best`.
        rows: int64 (B, k).
    """
    values, rows = _ops.search(
        *(x, weight, bias, functions, offsets, table_rows, sketch_functions, sketches, norms),
        *(ordered, probing, bits, probes, cap, candidates, active, k, seed, step),
    )
    return values, rows


# ---- shared_rows -------------------------------------------------------------------------------


def _check_shared_rows(
    labels: Tensor, count: int, max_labels: int, n_rows: int, seed: int, step: Tensor
) -> None:
    op = "shared_rows"
    _check_ids(labels, (None,), op, "labels")
    _check_at_least(count, 0, op, "count")
    what = f"got {max_labels}, wanted 0 to count = {count}"
    _check(0 <= max_labels <= count, op, "max_labels", what)
    _check_n_rows(n_rows, op)
    _check_step(step, op)


@_op(
    "shared_rows(Tensor labels, int count, int max_labels, int n_rows, int seed, Tensor step) "
    "-> (Tensor, Tensor)",
    _check_shared_rows,
)
def _(
    labels: Tensor, count: int, max_labels: int, n_rows: int, seed: int, step: Tensor
) -> tuple[Tensor, Tensor]:
    return labels.new_empty((count,)), labels.new_empty((1,), dtype=torch.int64)


def shared_rows(
    labels: Tensor, *, count: int, max_labels: int, n_rows: int, seed: int, step: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows that a whole batch scores: its distinct labels, then distinct uniform draws.

    Args:
        labels: int32, 1-d, -1 = none.
        count: T, rows wanted.
        max_labels: most labels among them, the first ones; 0 to T.
        n_rows: N.
        seed: of the draws.
        step: int64, one element.

    Returns:
        rows: int32 (T,), distinct, padded with -1 where the draws gave out (T near N).
        n_labels: int64 (1,), how many of them are labels; these stand first.
    """
    rows, n_labels = _ops.shared_rows(labels, count, max_labels, n_rows, seed, step)
    return rows, n_labels


# ---- gather_linear -----------------------------------------------------------------------------


def _check_input(op: str, x: Tensor, weight: Tensor) -> None:
    _check_floating(weight, op, "weight")
    _check_shape(weight, (None, None), op, "weight")
    _check_dtype(x, weight.dtype, op, "x")
    _check_shape(x, (None, weight.shape[1]), op, "x")


def _check_layer(op: str, x: Tensor, weight: Tensor, rows: Tensor) -> None:
    _check_input(op, x, weight)
    _check_ids(rows, (x.shape[0], None), op, "rows")


def _check_bias(op: str, weight: Tensor, bias: Tensor | None) -> None:
    if bias is not None:
        _check_dtype(bias, weight.dtype, op, "bias")
        _check_shape(bias, (weight.shape[0],), op, "bias")


def _check_gather_linear(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor) -> None:
    _check_layer("gather_linear", x, weight, rows)
    _check_bias("gather_linear", weight, bias)


@_op(
    "gather_linear(Tensor x, Tensor weight, Tensor? bias, Tensor rows) -> Tensor",
    _check_gather_linear,
)
def _(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    return x.new_empty(rows.shape)


def gather_linear(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    r"""Outputs of some rows of a linear layer.

    .. math:: z_{ba} = \langle x_b, w_{r_{ba}} \rangle + b_{r_{ba}}

    Not differentiable: :func:`hashdl.functional.active_linear` is.

    Args:
        x: (B, d) of the weight's dtype.
        weight: (N, d), float32, float64, bfloat16 or float16.
        bias: (N,), or None.
        rows: int32 (B, A).

    Returns:
        z: (B, A), 0 at padding.
    """
    z: Tensor = _ops.gather_linear(x, weight, bias, rows)
    return z


def _check_gather_linear_backward(
    grad_z: Tensor,
    x: Tensor,
    weight: Tensor,
    rows: Tensor,
    extra_rows: Tensor | None,
    extra_grad: Tensor | None,
    extra_bias: Tensor | None,
) -> None:
    op = "gather_linear_backward"
    _check_layer(op, x, weight, rows)
    _check_dtype(grad_z, weight.dtype, op, "grad_z")
    _check_shape(grad_z, tuple(rows.shape), op, "grad_z")
    together = (extra_rows is None) == (extra_grad is None)
    _check(together, op, "extra_grad", "wanted together with extra_rows")
    E = 0 if extra_rows is None else extra_rows.numel()
    if extra_rows is not None and extra_grad is not None:
        _check_ids(extra_rows, (None,), op, "extra_rows")
        _check_dtype(extra_grad, weight.dtype, op, "extra_grad")
        _check_shape(extra_grad, (E, weight.shape[1]), op, "extra_grad")
    if extra_bias is not None:
        _check_dtype(extra_bias, weight.dtype, op, "extra_bias")
        _check_shape(extra_bias, (E,), op, "extra_bias")


def _size_of_touched(weight: Tensor, room: int) -> Any:
    """How many rows or entries a backward pass answers with: on CUDA those there is room for."""
    if weight.device.type == "cuda" and has_cuda_kernel("gather_linear_backward"):
        return room
    return torch.library.get_ctx().new_dynamic_size()


@_op(
    "gather_linear_backward(Tensor grad_z, Tensor x, Tensor weight, Tensor rows, "
    "Tensor? extra_rows, Tensor? extra_grad, Tensor? extra_bias) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _check_gather_linear_backward,
)
def _(
    grad_z: Tensor,
    x: Tensor,
    weight: Tensor,
    rows: Tensor,
    extra_rows: Tensor | None,
    extra_grad: Tensor | None,
    extra_bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pairs = rows.numel() + (0 if extra_rows is None else extra_rows.numel())
    U = _size_of_touched(weight, min(weight.shape[0], pairs))
    return (
        x.new_empty(x.shape),
        rows.new_empty((U,)),
        weight.new_empty((U, weight.shape[1])),
        weight.new_empty((U,)),
    )


def gather_linear_backward(
    grad_z: Tensor,
    x: Tensor,
    weight: Tensor,
    rows: Tensor,
    extra_rows: Tensor | None = None,
    extra_grad: Tensor | None = None,
    extra_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`gather_linear`, compact: only rows that some sample has.

    Args:
        grad_z: (B, A).
        x: (B, d).
        weight: (N, d).
        rows: int32 (B, A).
        extra_rows: int32 (E,), -1 = none: rows whose gradient was computed elsewhere.
        extra_grad: (E, d), added to the gradient of these rows.
        extra_bias: (E,), added to their bias gradient.

    Returns:
        grad_x: (B, d), without the part of the extra rows.
        touched: int32 (U,), the distinct rows, ascending. The CUDA kernels answer with
            min(N, B A + E) entries, so that the host need not wait to learn U: the last row comes
            again and again, with gradients of 0 (row 0, where nothing at all is touched).
        grad_weight: (U, d).
        grad_bias: (U,).
    """
    grad_x, touched, grad_weight, grad_bias = _ops.gather_linear_backward(
        grad_z, x, weight, rows, extra_rows, extra_grad, extra_bias
    )
    return grad_x, touched, grad_weight, grad_bias


# ---- scatter_rows ------------------------------------------------------------------------------


def _check_scatter_rows(values: Tensor, rows: Tensor, n_rows: int, fill: float) -> None:
    op = "scatter_rows"
    _check_floating(values, op, "values")
    _check_ids(rows, (None, None), op, "rows")
    _check_shape(values, tuple(rows.shape), op, "values")
    _check_at_least(n_rows, 0, op, "n_rows")


@_op(
    "scatter_rows(Tensor values, Tensor rows, int n_rows, float fill) -> Tensor",
    _check_scatter_rows,
)
def _(values: Tensor, rows: Tensor, n_rows: int, fill: float) -> Tensor:
    return values.new_empty((values.shape[0], n_rows))


def scatter_rows(values: Tensor, rows: Tensor, *, n_rows: int, fill: float = 0.0) -> Tensor:
    """A dense (B, N) from the values of each sample's rows, ``fill`` elsewhere.

    Args:
        values: (B, A).
        rows: int32 (B, A), distinct within a sample.
        n_rows: N.
        fill: value of the other outputs.
    """
    out: Tensor = _ops.scatter_rows(values, rows, n_rows, fill)
    return out


# ---- combine_rows ------------------------------------------------------------------------------


def _check_combine_rows(values: Tensor, weight: Tensor, rows: Tensor) -> None:
    op = "combine_rows"
    _check_floating(weight, op, "weight")
    _check_shape(weight, (None, None), op, "weight")
    _check_ids(rows, (None, None), op, "rows")
    _check_dtype(values, weight.dtype, op, "values")
    _check_shape(values, tuple(rows.shape), op, "values")


@_op("combine_rows(Tensor values, Tensor weight, Tensor rows) -> Tensor", _check_combine_rows)
def _(values: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
    return weight.new_empty((rows.shape[0], weight.shape[1]))


def combine_rows(values: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
    r"""Weighted sums of some rows: a linear layer with active inputs, on its transposed weight.

    .. math:: y_b = \sum_a v_{ba} \, w_{r_{ba}}

    Not differentiable: :func:`hashdl.functional.active_columns` is.

    Args:
        values: (B, A) of the weight's dtype.
        weight: (N, d), float32, float64, bfloat16 or float16.
        rows: int32 (B, A), -1 = none.

    Returns:
        y: (B, d).

    Examples:
        >>> weight, rows = torch.eye(3), torch.tensor([[2, 0, -1]], dtype=torch.int32)
        >>> combine_rows(torch.tensor([[5.0, 7.0, 9.0]]), weight, rows)
        tensor([[7., 0., 5.]])
    """
    y: Tensor = _ops.combine_rows(values, weight, rows)
    return y


# ---- gather_sparse_linear ----------------------------------------------------------------------


def _check_sparse_layer(
    op: str, values: Tensor, columns: Tensor, weight: Tensor, rows: Tensor
) -> None:
    _check_floating(weight, op, "weight")
    _check_shape(weight, (None, None), op, "weight")
    _check_ids(columns, (None, None), op, "columns")
    _check_dtype(values, weight.dtype, op, "values")
    _check_shape(values, tuple(columns.shape), op, "values")
    _check_ids(rows, (columns.shape[0], None), op, "rows")


def _check_gather_sparse_linear(
    values: Tensor, columns: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor
) -> None:
    _check_sparse_layer("gather_sparse_linear", values, columns, weight, rows)
    _check_bias("gather_sparse_linear", weight, bias)


@_op(
    "gather_sparse_linear(Tensor values, Tensor columns, Tensor weight, Tensor? bias, "
    "Tensor rows) -> Tensor",
    _check_gather_sparse_linear,
)
def _(values: Tensor, columns: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    return values.new_empty(rows.shape)


def gather_sparse_linear(
    values: Tensor, columns: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor
) -> Tensor:
    r"""Outputs of some rows of a linear layer, from the inputs that are not zero alone.

    .. math:: z_{ba} = \sum_i v_{bi} \, W_{r_{ba} c_{bi}} + b_{r_{ba}}

    Not differentiable: :func:`hashdl.functional.active_sparse_linear` is.

    Args:
        values: (B, I) of the weight's dtype, the inputs of each sample that are not zero.
        columns: int32 (B, I), which inputs these are, -1 = none; what repeats is added up.
        weight: (N, d), float32, float64, bfloat16 or float16.
        bias: (N,), or None.
        rows: int32 (B, A).

    Returns:
        z: (B, A), 0 at padding.

    Examples:
        >>> values, columns = torch.tensor([[3.0, 9.0]]), torch.tensor([[1, -1]], dtype=torch.int32)
        >>> weight, rows = torch.tensor([[1.0, 2.0]]), torch.tensor([[0]], dtype=torch.int32)
        >>> gather_sparse_linear(values, columns, weight, None, rows)
        tensor([[6.]])
    """
    z: Tensor = _ops.gather_sparse_linear(values, columns, weight, bias, rows)
    return z


def _check_gather_sparse_linear_backward(
    grad_z: Tensor, values: Tensor, columns: Tensor, weight: Tensor, rows: Tensor
) -> None:
    op = "gather_sparse_linear_backward"
    _check_sparse_layer(op, values, columns, weight, rows)
    _check_dtype(grad_z, weight.dtype, op, "grad_z")
    _check_shape(grad_z, tuple(rows.shape), op, "grad_z")


@_op(
    "gather_sparse_linear_backward(Tensor grad_z, Tensor values, Tensor columns, Tensor weight, "
    "Tensor rows) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _check_gather_sparse_linear_backward,
)
def _(
    grad_z: Tensor, values: Tensor, columns: Tensor, weight: Tensor, rows: Tensor
) -> tuple[Tensor, ...]:
    N, d = weight.shape
    U = _size_of_touched(weight, min(N, rows.numel()))
    E = _size_of_touched(weight, min(min(N, rows.numel()) * d, rows.numel() * columns.shape[1]))
    return (
        *(values.new_empty(values.shape), rows.new_empty((U,)), weight.new_empty((U,))),
        *(rows.new_empty((U + 1,), dtype=torch.int64), rows.new_empty((E,))),
        weight.new_empty((E,)),
    )


def gather_sparse_linear_backward(
    grad_z: Tensor, values: Tensor, columns: Tensor, weight: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`gather_sparse_linear`, compact: only entries that some sample meets.

    Args:
        grad_z: (B, A).
        values: (B, I).
        columns: int32 (B, I).
        weight: (N, d).
        rows: int32 (B, A).

    Returns:
        grad_values: (B, I), 0 at padding.
        touched: int32 (U,), the distinct rows, ascending.
        grad_bias: (U,).
        starts: int64 (U + 1,): row ``touched[u]`` has the entries from starts[u] to starts[u + 1].
        entry_columns: int32 (E,), ascending within a row.
        grad_weight: (E,), of these entries.

    The CUDA kernels answer with min(N, B A) rows, G, and min(G d, B A I) entries, so that the host
    need not wait to learn U and E: the last row, and the last entry, come again and again, with
    gradients of 0 (column 0 of the first of the rows, where there is no entry at all).
    """
    gradients: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor] = (
        _ops.gather_sparse_linear_backward(grad_z, values, columns, weight, rows)
    )
    return gradients


# ---- find_shared -------------------------------------------------------------------------------


def _check_find_shared(rows: Tensor, shared: Tensor) -> None:
    _check_ids(rows, (None, None), "find_shared", "rows")
    _check_ids(shared, (None,), "find_shared", "shared")


@_op("find_shared(Tensor rows, Tensor shared) -> Tensor", _check_find_shared)
def _(rows: Tensor, shared: Tensor) -> Tensor:
    return rows.new_empty(rows.shape)


def find_shared(rows: Tensor, shared: Tensor) -> Tensor:
    """Where rows stand among those that a batch shares.

    Args:
        rows: int32 (B, A), -1 = padding.
        shared: int32 (T,), distinct, -1 = padding.

    Returns:
        places: int32 (B, A), 0 to T - 1; -1 for padding and for a row that is not shared.

    Examples:
        >>> shared = torch.tensor([7, 2, -1], dtype=torch.int32)
        >>> find_shared(torch.tensor([[2, 5, -1]], dtype=torch.int32), shared)
        tensor([[ 1, -1, -1]], dtype=torch.int32)
    """
    places: Tensor = _ops.find_shared(rows, shared)
    return places


# ---- active_log_prob ---------------------------------------------------------------------------


def _check_logits(
    op: str, z: Tensor, s: Tensor | None, rows: Tensor, shared: Tensor | None
) -> None:
    _check_floating(z, op, "z")
    _check_ids(rows, (None, None), op, "rows")
    _check_shape(z, tuple(rows.shape), op, "z")
    _check((s is None) == (shared is None), op, "s", "wanted together with shared")
    if s is not None and shared is not None:
        _check_ids(shared, (None,), op, "shared")
        _check_dtype(s, z.dtype, op, "s")
        _check_shape(s, (rows.shape[0], shared.shape[0]), op, "s")


def _check_label_columns(op: str, columns: Tensor, rows: Tensor, argument: str) -> None:
    _check_ids(columns, (rows.shape[0], None), op, argument)
    what = f"got shape {tuple(columns.shape)}, wanted at most {rows.shape[1]} columns, as rows has"
    _check(columns.shape[1] <= rows.shape[1], op, argument, what)


def _check_active_log_prob(
    z: Tensor, s: Tensor | None, rows: Tensor, shared: Tensor | None, labels: Tensor
) -> None:
    op = "active_log_prob"
    _check_logits(op, z, s, rows, shared)
    _check_label_columns(op, labels, rows, "labels")


@_op(
    "active_log_prob(Tensor z, Tensor? s, Tensor rows, Tensor? shared, Tensor labels) "
    "-> (Tensor, Tensor, Tensor)",
    _check_active_log_prob,
)
def _(
    z: Tensor, s: Tensor | None, rows: Tensor, shared: Tensor | None, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    B = z.shape[0]
    logsumexp = z.new_empty((B,), dtype=reference.accumulator(z.dtype))
    return z.new_empty((B,)), logsumexp, labels.new_empty(labels.shape)


def active_log_prob(
    z: Tensor, s: Tensor | None, rows: Tensor, shared: Tensor | None, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Log probability of each sample's labels, under a softmax over its active rows.

    .. math::
        \ell_b = \frac{1}{|Y_b|} \sum_{y \in Y_b} u_{by} - \log \sum_i e^{u_{bi}}

    with u the logits of z and s that are not padding: those of the sample's own rows and of the
    rows that the batch shares. A logit may be -inf; a label that is not active has that logit.
    Sums are in float32 (float64 for float64). Differentiable in z and s by
    :func:`hashdl.functional.active_log_prob`.

    Args:
        z: (B, Q), logits of the sample's own rows.
        s: (B, T), logits of the shared rows, or None together with ``shared``.
        rows: int32 (B, Q), -1 = padding.
        shared: int32 (T,), distinct, -1 = padding; or None.
        labels: int32 (B, M), distinct within a sample, -1 = none. Label m stands in column m of
            ``rows``, as :func:`select` puts it, or in ``shared``.

    Returns:
        log_prob: (B,), 0 for a sample without labels.
        logsumexp: float32 or float64 (B,), over the logits that count.
        places: int32 (B, M), each label's column in (z, s); -1 = no label, Q + T = not active.

    Examples:
        >>> z, rows = torch.zeros(1, 3), torch.tensor([[7, 2, -1]], dtype=torch.int32)
        >>> log_prob, _, places = active_log_prob(z, None, rows, None, rows[:, :1])
        >>> log_prob.exp(), places
        (tensor([0.5000]), tensor([[0]], dtype=torch.int32))
    """
    log_prob, logsumexp, places = _ops.active_log_prob(z, s, rows, shared, labels)
    return log_prob, logsumexp, places


def _check_active_log_prob_backward(
    grad_log_prob: Tensor,
    z: Tensor,
    s: Tensor | None,
    rows: Tensor,
    shared: Tensor | None,
    logsumexp: Tensor,
    places: Tensor,
) -> None:
    op = "active_log_prob_backward"
    _check_logits(op, z, s, rows, shared)
    B = rows.shape[0]
    _check_dtype(grad_log_prob, z.dtype, op, "grad_log_prob")
    _check_shape(grad_log_prob, (B,), op, "grad_log_prob")
    _check_dtype(logsumexp, reference.accumulator(z.dtype), op, "logsumexp")
    _check_shape(logsumexp, (B,), op, "logsumexp")
    _check_label_columns(op, places, rows, "places")


@_op(
    "active_log_prob_backward(Tensor grad_log_prob, Tensor z, Tensor? s, Tensor rows, "
    "Tensor? shared, Tensor logsumexp, Tensor places) -> (Tensor, Tensor)",
    _check_active_log_prob_backward,
)
def _(
    grad_log_prob: Tensor,
    z: Tensor,
    s: Tensor | None,
    rows: Tensor,
    shared: Tensor | None,
    logsumexp: Tensor,
    places: Tensor,
) -> tuple[Tensor, Tensor]:
    T = 0 if shared is None else shared.shape[0]
    return z.new_empty(z.shape), z.new_empty((z.shape[0], T))


def active_log_prob_backward(
    grad_log_prob: Tensor,
    z: Tensor,
    s: Tensor | None,
    rows: Tensor,
    shared: Tensor | None,
    logsumexp: Tensor,
    places: Tensor,
) -> tuple[Tensor, Tensor]:
    r"""Gradients of :func:`active_log_prob`.

    .. math::
        \frac{\partial \ell_b}{\partial u_{bi}}
        = \frac{[i \in Y_b]}{|Y_b|} - e^{u_{bi} - \log \sum_j e^{u_{bj}}}

    Args:
        grad_log_prob: (B,), of z's dtype.
        z: (B, Q), see :func:`active_log_prob`.
        s: (B, T), or None.
        rows: int32 (B, Q).
        shared: int32 (T,), or None.
        logsumexp: (B,), of :func:`active_log_prob`.
        places: int32 (B, M), of :func:`active_log_prob`.

    Returns:
        grad_z: (B, Q), 0 at padding and for samples without labels.
        grad_s: (B, T), likewise; T = 0 where s is None.
    """
    grad_z, grad_s = _ops.active_log_prob_backward(
        grad_log_prob, z, s, rows, shared, logsumexp, places
    )
    return grad_z, grad_s


# ---- row optimizers ----------------------------------------------------------------------------


def _check_row_ids(ids: Tensor) -> None:
    _check_dtype(ids, torch.int64, "row_ids", "ids")
    _check_shape(ids, (None,), "row_ids", "ids")


@_op("row_ids(Tensor ids) -> (Tensor, Tensor)", _check_row_ids)
def _(ids: Tensor) -> tuple[Tensor, Tensor]:
    return ids.new_empty(ids.shape, dtype=torch.int32), ids.new_empty((), dtype=torch.bool)


def row_ids(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of a sparse gradient as the row optimizers take them.

    Args:
        ids: int64 (U,), each 0 to 2^31 - 1.

    Returns:
        rows: int32 (U,), the same.
        ascending: bool (), whether each is larger than the one before it: they are distinct then.

    Examples:
        >>> row_ids(torch.tensor([2, 5, 7]))
        (tensor([2, 5, 7], dtype=torch.int32), tensor(True))
    """
    rows, ascending = _ops.row_ids(ids)
    return rows, ascending


def _check_update(op: str, weight: Tensor, rows: Tensor, grad: Tensor) -> None:
    _check_floating(weight, op, "weight")
    _check(
        weight.dim() in (1, 2),
        op,
        "weight",
        f"got shape {tuple(weight.shape)}, wanted (N, d) or (N,)",
    )
    _check_in_place(op, weight, "weight")
    _check_ids(rows, (None,), op, "rows")
    _check_dtype(grad, weight.dtype, op, "grad")
    _check_shape(grad, (rows.shape[0], *weight.shape[1:]), op, "grad")


def _check_in_place(op: str, tensor: Tensor, argument: str) -> None:
    what = "got a non-contiguous tensor; it is updated in place"
    _check(tensor.is_contiguous(), op, argument, what)


def _check_state(
    op: str, state: Tensor, weight: Tensor, argument: str, *, row_wise: bool = False
) -> None:
    """A state has the weight's shape, or, where ``row_wise`` allows it, one scalar a row."""
    wanted = torch.float64 if weight.dtype == torch.float64 else torch.float32
    _check_dtype(state, wanted, op, argument)
    _check_in_place(op, state, argument)
    compact = row_wise and state.dim() == 1
    _check_shape(state, weight.shape[:1] if compact else tuple(weight.shape), op, argument)


def _check_sgd_rows_(
    weight: Tensor,
    momentum_buffer: Tensor | None,
    rows: Tensor,
    grad: Tensor,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    _check_update("sgd_rows_", weight, rows, grad)
    if momentum_buffer is not None:
        _check_state("sgd_rows_", momentum_buffer, weight, "momentum_buffer")


@_op(
    "sgd_rows_(Tensor(a!) weight, Tensor(b!)? momentum_buffer, Tensor rows, Tensor grad, "
    "float lr, float momentum, bool nesterov, float weight_decay) -> ()",
    _check_sgd_rows_,
)
def _(*args: Any) -> None:
    return None


def sgd_rows_(
    weight: Tensor,
    momentum_buffer: Tensor | None,
    rows: Tensor,
    grad: Tensor,
    *,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """A step of :class:`torch.optim.SGD` on some rows, in place; the others are not looked at.

    Args:
        weight: (N, d) or (N,), contiguous.
        momentum_buffer: of the weight's shape, float32 (float64 for float64), or None.
        rows: int32 (U,), distinct; an entry with the row of the one before is padding, and skipped.
        grad: (U, d) or (U,), of these rows.
        lr: learning rate.
        momentum: factor on the buffer, applied when a row is touched.
        nesterov: Nesterov momentum.
        weight_decay: L2 penalty, applied when a row is touched.
    """
    _ops.sgd_rows_(weight, momentum_buffer, rows, grad, lr, momentum, nesterov, weight_decay)


def _check_adagrad_rows_(
    weight: Tensor,
    sum: Tensor,
    rows: Tensor,
    grad: Tensor,
    lr: float,
    eps: float,
    weight_decay: float,
) -> None:
    _check_update("adagrad_rows_", weight, rows, grad)
    _check_state("adagrad_rows_", sum, weight, "sum", row_wise=True)


@_op(
    "adagrad_rows_(Tensor(a!) weight, Tensor(b!) sum, Tensor rows, Tensor grad, float lr, "
    "float eps, float weight_decay) -> ()",
    _check_adagrad_rows_,
)
def _(*args: Any) -> None:
    return None


def adagrad_rows_(
    weight: Tensor,
    sum: Tensor,
    rows: Tensor,
    grad: Tensor,
    *,
    lr: float,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
) -> None:
    """A step of :class:`torch.optim.Adagrad` on some rows, in place.

    Args:
        weight: (N, d) or (N,), contiguous.
        sum: sums of squares, of the weight's shape; or (N,) for a 2-d weight: row-wise, the mean
            of the squares of the row is added.
        rows: int32 (U,), distinct; an entry with the row of the one before is padding, and skipped.
        grad: (U, d) or (U,).
        lr: learning rate.
        eps: added to the root.
        weight_decay: L2 penalty, applied when a row is touched.
    """
    _ops.adagrad_rows_(weight, sum, rows, grad, lr, eps, weight_decay)


def _check_adam_rows_(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rows: Tensor,
    grad: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    step: Tensor,
) -> None:
    op = "adam_rows_"
    _check_update(op, weight, rows, grad)
    _check_dtype(step, torch.float32, op, "step")
    _check_one_element(step, op, "step")
    _check_state(op, exp_avg, weight, "exp_avg")
    _check_state(op, exp_avg_sq, weight, "exp_avg_sq", row_wise=True)


@_op(
    "adam_rows_(Tensor(a!) weight, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor rows, "
    "Tensor grad, float lr, float beta1, float beta2, float eps, float weight_decay, "
    "bool decoupled, Tensor step) -> ()",
    _check_adam_rows_,
)
def _(*args: Any) -> None:
    return None


def adam_rows_(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rows: Tensor,
    grad: Tensor,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    step: Tensor,
) -> None:
    """A step of :class:`torch.optim.Adam` on some rows, in place.

    The averages of a row decay only when it is touched; the bias correction is that of the global
    step, as in :class:`torch.optim.SparseAdam`.

    Args:
        weight: (N, d) or (N,), contiguous.
        exp_avg: of the weight's shape, float32 (float64 for float64).
        exp_avg_sq: likewise; or (N,) for a 2-d weight: row-wise, the mean over the row.
        rows: int32 (U,), distinct; an entry with the row of the one before is padding, and skipped.
        grad: (U, d) or (U,).
        lr: learning rate.
        betas: decay of the two averages.
        eps: added to the root.
        weight_decay: L2 penalty, or with ``decoupled`` a decay as in AdamW, on touched rows.
        decoupled: see ``weight_decay``.
        step: float32, one element: the number of this step, from 1; in the host's memory, or on the
            GPU of the weight, where the host does not wait for it.
    """
    _ops.adam_rows_(
        weight, exp_avg, exp_avg_sq, rows, grad, lr, *betas, eps, weight_decay, decoupled, step
    )
