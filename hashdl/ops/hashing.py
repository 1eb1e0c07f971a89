"""From vectors to codes, and to the buckets that a query probes."""

from __future__ import annotations

import torch
from torch import Tensor

from hashdl import reference
from hashdl.ops.checks import (
    check,
    check_at_least,
    check_bias,
    check_bits,
    check_dtype,
    check_floating,
    check_ids,
    check_shape,
)
from hashdl.ops.registration import define_op, kernels

# ---- pack_signs ---------------------------------------------------------------------------------


def _check_sign_projections(
    projections: Tensor, bits: int, op: str, argument: str = "projections"
) -> None:
    check(1 <= bits <= 32, op, "bits", f"got {bits}, wanted 1 to 32")
    _check_columns(projections, bits, op, argument, "bits")


def _check_columns(values: Tensor, divisor: int, op: str, argument: str, name: str) -> None:
    """float32 (M, a multiple of the divisor)."""
    check_dtype(values, torch.float32, op, argument)
    check_shape(values, (None, None), op, argument)
    shape = tuple(values.shape)
    what = f"got shape {shape}, wanted (*, multiple of {name} = {divisor})"
    check(shape[1] % divisor == 0, op, argument, what)


def _check_pack_signs(projections: Tensor, bits: int) -> None:
    _check_sign_projections(projections, bits, "pack_signs")


@define_op("pack_signs(Tensor projections, int bits) -> Tensor", _check_pack_signs)
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
    codes: Tensor = kernels.pack_signs(projections, bits)
    return codes


# ---- sign_codes ---------------------------------------------------------------------------------


def _check_sign_codes(
    weight: Tensor, bias: Tensor | None, center: Tensor, planes: Tensor, bits: int
) -> None:
    op = "sign_codes"
    check_floating(weight, op, "weight")
    check_shape(weight, (None, None), op, "weight")
    check_bias(op, weight, bias)
    D = weight.shape[1] + 1
    check_dtype(center, torch.float32, op, "center")
    check_shape(center, (D,), op, "center")
    _check_sign_projections(planes, bits, op, "planes")
    check_shape(planes, (D, None), op, "planes")


@define_op(
    "sign_codes(Tensor weight, Tensor? bias, Tensor center, Tensor planes, int bits) -> Tensor",
    _check_sign_codes,
)
def _(weight: Tensor, bias: Tensor | None, center: Tensor, planes: Tensor, bits: int) -> Tensor:
    return weight.new_empty((planes.shape[1] // bits, weight.shape[0]), dtype=torch.int32)


def sign_codes(
    weight: Tensor, bias: Tensor | None, center: Tensor, planes: Tensor, *, bits: int
) -> Tensor:
    r"""Codes of rows: :func:`pack_signs` of their projections, which are held nowhere.

    .. math:: p_m = ((w_m, b_m) - c)^\top P

    On a CPU; elsewhere it is its plain-torch reference.

    Args:
        weight: (M, d), float32, float64, bfloat16 or float16; sums are in float32.
        bias: (M,) of the weight's dtype, or None: zeros.
        center: float32 (d + 1,).
        planes: float32 (d + 1, L K).
        bits: K, 1 to 32.

    Returns:
        codes: int32 (L, M).

    Raises:
        RuntimeError: shapes or dtypes do not fit, or a projection is NaN or infinite.

    Examples:
        >>> weight, center = torch.tensor([[1.0, -1.0], [0.0, 2.0]]), torch.zeros(3)
        >>> sign_codes(weight, None, center, torch.eye(3)[:, :2], bits=2)
        tensor([[1, 2]], dtype=torch.int32)
    """
    codes: Tensor = kernels.sign_codes(weight, bias, center, planes, bits)
    return codes


# ---- pack_digits, probe_digits ------------------------------------------------------------------


def _check_digits(projections: Tensor, bits: int, op: str) -> int:
    """L, the codes of a row."""
    check_bits(bits, op)
    check_dtype(projections, torch.float32, op, "projections")
    check_shape(projections, (None, None), op, "projections")
    slots, width = sum(reference.slots_of(bits)), projections.shape[1]
    wanted = f"wanted (*, multiple of {slots}), the slots of {bits} bits"
    what = f"got shape {tuple(projections.shape)}, {wanted}"
    check(width % slots == 0, op, "projections", what)
    return width // slots


def _check_pack_digits(projections: Tensor, bits: int) -> None:
    _check_digits(projections, bits, "pack_digits")


@define_op("pack_digits(Tensor projections, int bits) -> Tensor", _check_pack_digits)
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
    codes: Tensor = kernels.pack_digits(projections, bits)
    return codes


def _check_probe_digits(projections: Tensor, bits: int, probes: int) -> None:
    _check_digits(projections, bits, "probe_digits")
    check_at_least(probes, 1, "probe_digits", "probes")


@define_op("probe_digits(Tensor projections, int bits, int probes) -> Tensor", _check_probe_digits)
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
    buckets: Tensor = kernels.probe_digits(projections, bits, probes)
    return buckets


# ---- densified_projections ----------------------------------------------------------------------


def _check_densified_projections(vectors: Tensor, functions: Tensor) -> None:
    op = "densified_projections"
    check_dtype(vectors, torch.float32, op, "vectors")
    check_shape(vectors, (None, None), op, "vectors")
    check_ids(functions, (None, None), op, "functions")
    what = f"got shape {tuple(functions.shape)}, wanted two rows or more"
    check(functions.shape[0] >= 2, op, "functions", what)


@define_op(
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
    projections: Tensor = kernels.densified_projections(vectors, functions)
    return projections


# ---- hadamard_projections -----------------------------------------------------------------------


def _check_hadamard_projections(vectors: Tensor, functions: Tensor) -> None:
    op = "hadamard_projections"
    check_dtype(vectors, torch.float32, op, "vectors")
    check_shape(vectors, (None, None), op, "vectors")
    check_ids(functions, (2, None), op, "functions")


@define_op(
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
    projections: Tensor = kernels.hadamard_projections(vectors, functions)
    return projections


# ---- probe_signs --------------------------------------------------------------------------------


def _check_probe_signs(projections: Tensor, bits: int, probes: int) -> None:
    op = "probe_signs"
    check_bits(bits, op)
    _check_sign_projections(projections, bits, op)
    check_at_least(probes, 1, op, "probes")


@define_op("probe_signs(Tensor projections, int bits, int probes) -> Tensor", _check_probe_signs)
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
    buckets: Tensor = kernels.probe_signs(projections, bits, probes)
    return buckets


# ---- best_columns -------------------------------------------------------------------------------


def _check_best_columns(scores: Tensor, groups: int, count: int) -> None:
    op = "best_columns"
    check_at_least(groups, 1, op, "groups")
    check_at_least(count, 1, op, "count")
    _check_columns(scores, groups, op, "scores", "groups")
    check(scores.shape[1] > 0, op, "scores", "got no columns")


@define_op("best_columns(Tensor scores, int groups, int count) -> Tensor", _check_best_columns)
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
    columns: Tensor = kernels.best_columns(scores, groups, count)
    return columns


# ---- nearest_columns ----------------------------------------------------------------------------


def _check_nearest_columns(
    rows: Tensor, bias: Tensor | None, functions: Tensor, offset: Tensor | None, groups: int
) -> None:
    op = "nearest_columns"
    check_at_least(groups, 1, op, "groups")
    check_dtype(rows, torch.float32, op, "rows")
    check_shape(rows, (None, None), op, "rows")
    M, d = rows.shape
    check_dtype(functions, torch.float32, op, "functions")
    check_shape(functions, (d + int(bias is not None), None), op, "functions")
    F = functions.shape[1]
    what = f"got shape {tuple(functions.shape)}, wanted (*, positive multiple of groups = {groups})"
    check(F > 0 and F % groups == 0, op, "functions", what)
    for name, tensor, size in (("bias", bias, M), ("offset", offset, F)):
        if tensor is not None:
            check_dtype(tensor, torch.float32, op, name)
            check_shape(tensor, (size,), op, name)


@define_op(
    "nearest_columns(Tensor rows, Tensor? bias, Tensor functions, Tensor? offset, int groups) "
    "-> Tensor",
    _check_nearest_columns,
)
def _(
    rows: Tensor, bias: Tensor | None, functions: Tensor, offset: Tensor | None, groups: int
) -> Tensor:
    return rows.new_empty((rows.shape[0], groups), dtype=torch.int32)


def nearest_columns(
    rows: Tensor,
    bias: Tensor | None,
    functions: Tensor,
    offset: Tensor | None = None,
    *,
    groups: int,
) -> Tensor:
    r"""The column of each group with which a row has the largest score: a code of k-means.

    .. math:: \operatorname{argmax}_c \, \langle (r, b), f_c \rangle + o_c

    As :func:`best_columns` of a matrix product says, without writing the product.

    Args:
        rows: float32 (M, d); NaN and infinities are refused.
        bias: float32 (M,), or None.
        functions: float32 (d + 1, G W), W columns a group; (d, G W) without bias.
        offset: float32 (G W,), or None: zeros.
        groups: G.

    Returns:
        columns: int32 (M, G) in [0, W); ties to the lower column.

    Examples:
        >>> rows = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
        >>> nearest_columns(rows, None, torch.eye(2), groups=1)
        tensor([[0],
                [1]], dtype=torch.int32)
        >>> nearest_columns(rows, None, torch.eye(2), torch.tensor([0.0, 2.0]), groups=1)
        tensor([[1],
                [1]], dtype=torch.int32)
    """
    columns: Tensor = kernels.nearest_columns(rows, bias, functions, offset, groups)
    return columns
