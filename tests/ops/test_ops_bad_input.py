"""What each op refuses: RuntimeError that names the op and the argument, and nothing is written.

One table for the kernels, for the fallback, and, where values do not matter, for the fakes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ops_samples as samples
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

Change = Callable[[Any], Any]


@dataclass(frozen=True)
class Bad:
    """Sample arguments of ``op`` with ``argument`` changed. The message names ``blamed``."""

    op: str
    argument: str
    text: str
    change: Change
    blamed: str = ""
    needs_values: bool = False
    given: tuple[tuple[str, Any], ...] = ()

    @property
    def id(self) -> str:
        return f"{self.op}-{self.argument}-{self.text}"

    def args(self) -> samples.Args:
        given = samples.sample_dict(self.op, **dict(self.given))
        return tuple((given | {self.argument: self.change(given[self.argument])}).values())


def value(wanted: Any) -> Change:
    return lambda _: wanted


def with_value(place: int, wanted: float) -> Change:
    """One element changed, of the flattened tensor."""

    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[place] = wanted
        return changed

    return change


def shapes(op: str, argument: str, **kinds: Change) -> list[Bad]:
    return [Bad(op, argument, text, change) for text, change in kinds.items()]


def numbers(op: str, argument: str, *wrong: int, **more: Any) -> list[Bad]:
    return [Bad(op, argument, str(number), value(number), **more) for number in wrong]


def float32_only(op: str, argument: str) -> list[Bad]:
    return shapes(op, argument, float64=Tensor.double, float16=Tensor.half, int32=Tensor.int)


def floating_only(op: str, argument: str) -> list[Bad]:
    return shapes(op, argument, int32=Tensor.int, bool=Tensor.bool, complex=lambda t: t + 0j)


def same_dtype(op: str, argument: str) -> list[Bad]:
    return shapes(op, argument, float64=Tensor.double, bfloat16=Tensor.bfloat16, int=Tensor.int)


def wrong_rank(op: str, argument: str) -> list[Bad]:
    """A dimension more, and none at all."""
    return shapes(op, argument, deeper=lambda t: t.unsqueeze(0), scalar=lambda t: t.new_ones(()))


def wrong_size(op: str, argument: str, *dims: int, blamed: str = "") -> list[Bad]:
    return [
        Bad(
            op,
            argument,
            f"size{dim}",
            lambda t, dim=dim: torch.cat([t, t[:, :1] if dim else t[:1]], dim),
            blamed=blamed,
        )
        for dim in dims
    ]


def any_ids(op: str, argument: str) -> list[Bad]:
    """int32 row ids of any value, of any shape that the op takes."""
    wrong = {"int64": Tensor.long, "uint8": lambda t: t.clamp_min(0).byte(), "float": Tensor.float}
    return [*shapes(op, argument, **wrong), *wrong_rank(op, argument)]


def ids(op: str, argument: str, n_rows: int, *, padding: bool = True, **more: Any) -> list[Bad]:
    """int32 row ids below ``n_rows``, of any shape that the op takes."""
    lowest = -2 if padding else -1
    out_of_range = [n_rows, 2**31 - 1, lowest, -(2**31)]
    return [
        *any_ids(op, argument),
        *(
            Bad(op, argument, str(wanted), with_value(-1, wanted), needs_values=True, **more)
            for wanted in out_of_range
        ),
    ]


def not_finite(op: str, argument: str) -> list[Bad]:
    return [
        Bad(op, argument, str(wanted), with_value(3, wanted), needs_values=True)
        for wanted in (torch.nan, torch.inf, -torch.inf)
    ]


def bits(op: str, most: int = 24) -> list[Bad]:
    return numbers(op, "bits", 0, -1, most + 1, 2**40)


def step(op: str) -> list[Bad]:
    kinds = {"int32": Tensor.int, "float": Tensor.float}
    sizes = {"none": lambda t: t[:0], "two": lambda t: t.expand(2)}
    return shapes(op, "step", **kinds, **sizes)


def layer(op: str, n_rows: int) -> list[Bad]:
    return [
        *floating_only(op, "weight"),
        *wrong_rank(op, "weight"),
        *same_dtype(op, "x"),
        *wrong_rank(op, "x"),
        *wrong_size(op, "x", 1),
        *ids(op, "rows", n_rows),
        *wrong_size(op, "rows", 0),
    ]


def sparse_layer(op: str) -> list[Bad]:
    return [
        *floating_only(op, "weight"),
        *wrong_rank(op, "weight"),
        *same_dtype(op, "values"),
        *wrong_rank(op, "values"),
        *wrong_size(op, "values", 0, 1),
        *ids(op, "columns", 19),
        *ids(op, "rows", 20),
        *wrong_size(op, "rows", 0),
    ]


def active_logits(op: str) -> list[Bad]:
    return [
        *floating_only(op, "z"),
        *wrong_rank(op, "z"),
        *wrong_size(op, "z", 0, 1),
        *any_ids(op, "rows"),
        *same_dtype(op, "s"),
        *wrong_rank(op, "s"),
        *wrong_size(op, "s", 0, 1),
        *shapes(op, "s", missing=value(None)),
        *any_ids(op, "shared"),
        Bad(op, "shared", "missing", value(None), blamed="s"),
    ]


def update(op: str, *states: str, narrow: bool = False) -> list[Bad]:
    """``narrow``: states may be bfloat16, all of them."""
    apart = {"strided": samples.strided}
    return [
        *floating_only(op, "weight"),
        *wrong_rank(op, "weight"),
        *shapes(op, "weight", **apart, transposed=lambda t: t.t().contiguous().t()),
        *ids(op, "rows", 20, padding=False),
        *same_dtype(op, "grad"),
        *wrong_rank(op, "grad"),
        *wrong_size(op, "grad", 0, 1),
        *(
            bad
            for state in states
            for bad in [
                *(bad for bad in same_dtype(op, state) if not (narrow and bad.text == "bfloat16")),
                *wrong_rank(op, state),
                *wrong_size(op, state, 0, 1),
                *shapes(op, state, **apart),
                # The state of a 16-bit weight is float32.
                Bad(op, state, "16-bit", Tensor.half, given=(("dtype", torch.float16),)),
            ]
        ),
    ]


CASES = [
    *bits("pack_signs", most=32),
    Bad("pack_signs", "bits", "does-not-divide", value(5), blamed="projections"),
    *float32_only("pack_signs", "projections"),
    *wrong_rank("pack_signs", "projections"),
    *not_finite("pack_signs", "projections"),
    *bits("sign_codes", most=32),
    Bad("sign_codes", "bits", "does-not-divide", value(5), blamed="planes"),
    *floating_only("sign_codes", "weight"),
    *wrong_rank("sign_codes", "weight"),
    *not_finite("sign_codes", "weight"),
    *same_dtype("sign_codes", "bias"),
    *wrong_rank("sign_codes", "bias"),
    *wrong_size("sign_codes", "bias", 0),
    *(bad for name in ("center", "planes") for bad in float32_only("sign_codes", name)),
    *(bad for name in ("center", "planes") for bad in wrong_rank("sign_codes", name)),
    *(bad for name in ("center", "planes") for bad in wrong_size("sign_codes", name, 0)),
    *bits("pack_digits"),
    Bad("pack_digits", "bits", "does-not-divide", value(5), blamed="projections"),
    *float32_only("pack_digits", "projections"),
    *wrong_rank("pack_digits", "projections"),
    *not_finite("pack_digits", "projections"),
    *bits("probe_digits"),
    Bad("probe_digits", "bits", "does-not-divide", value(5), blamed="projections"),
    *float32_only("probe_digits", "projections"),
    *wrong_rank("probe_digits", "projections"),
    *not_finite("probe_digits", "projections"),
    *numbers("probe_digits", "probes", 0, -1),
    *float32_only("densified_projections", "vectors"),
    *wrong_rank("densified_projections", "vectors"),
    *not_finite("densified_projections", "vectors"),
    *ids("densified_projections", "functions", 13, padding=False),
    *shapes("densified_projections", "functions", no_attempt=lambda t: t[:1]),
    *(
        Bad("densified_projections", "functions", text, with_value(*change), needs_values=True)
        for text, change in {"first-column": (0, 0), "2-begins": (3, 2)}.items()
    ),
    *float32_only("hadamard_projections", "vectors"),
    *wrong_rank("hadamard_projections", "vectors"),
    *ids("hadamard_projections", "functions", 16, padding=False),
    *wrong_size("hadamard_projections", "functions", 0),
    *bits("build_tables"),
    *ids("build_tables", "codes", 2**3, padding=False),
    *shapes("limit_buckets", "offsets", int64=Tensor.long, empty=lambda t: t[:, :0]),
    *wrong_rank("limit_buckets", "offsets"),
    *wrong_size("limit_buckets", "offsets", 0),
    *(
        Bad("limit_buckets", "offsets", text, with_value(*change), needs_values=True)
        for text, change in {"starts-before": (0, -1), "descends": (1, 40)}.items()
    ),
    *shapes("limit_buckets", "rows", int64=Tensor.long),
    *wrong_rank("limit_buckets", "rows"),
    *numbers("limit_buckets", "capacity", 0, -1),
    Bad("limit_buckets", "replacement", "unknown", value("newest")),
    *shapes("mark_rows_", "dirty", int32=Tensor.int, bool=Tensor.bool, strided=samples.strided),
    *wrong_rank("mark_rows_", "dirty"),
    *(bad for bad in ids("mark_rows_", "rows", 40) if bad.text not in ("deeper", "scalar")),
    *numbers("mark_rows_", "bits", -1, 256),
    *bits("probe_signs"),
    Bad("probe_signs", "bits", "does-not-divide", value(5), blamed="projections"),
    *numbers("probe_signs", "probes", 0, -1),
    *float32_only("probe_signs", "projections"),
    *wrong_rank("probe_signs", "projections"),
    *not_finite("probe_signs", "projections"),
    *float32_only("best_columns", "scores"),
    *wrong_rank("best_columns", "scores"),
    *not_finite("best_columns", "scores"),
    *shapes("best_columns", "scores", empty=lambda t: t[:, :0]),
    *numbers("best_columns", "groups", 0, -1),
    Bad("best_columns", "groups", "does-not-divide", value(5), blamed="scores"),
    *numbers("best_columns", "count", 0, -1),
    *float32_only("nearest_columns", "rows"),
    *wrong_rank("nearest_columns", "rows"),
    *not_finite("nearest_columns", "rows"),
    *wrong_size("nearest_columns", "rows", 0, blamed="bias"),
    *wrong_size("nearest_columns", "rows", 1, blamed="functions"),
    *float32_only("nearest_columns", "functions"),
    *wrong_rank("nearest_columns", "functions"),
    *wrong_size("nearest_columns", "functions", 0, 1),
    *shapes("nearest_columns", "functions", empty=lambda t: t[:, :0]),
    *(
        bad
        for name in ("bias", "offset")
        for bad in [
            *float32_only("nearest_columns", name),
            *wrong_rank("nearest_columns", name),
            *wrong_size("nearest_columns", name, 0),
        ]
    ),
    *numbers("nearest_columns", "groups", 0, -1),
    Bad("nearest_columns", "groups", "does-not-divide", value(5), blamed="functions"),
    *ids("lookup", "buckets", 2**4),
    *wrong_size("lookup", "buckets", 1),
    *shapes("lookup", "offsets", int64=Tensor.long),
    *wrong_rank("lookup", "offsets"),
    *wrong_size("lookup", "offsets", 0),
    *shapes("lookup", "offsets", empty=lambda t: t[:, :0]),
    Bad("lookup", "offsets", "few", lambda t: t[:, :3], blamed="buckets", needs_values=True),
    *shapes("lookup", "rows", int64=Tensor.long),
    *wrong_rank("lookup", "rows"),
    *numbers("lookup", "cap", 0, -1),
    *numbers("lookup", "candidates", -1),
    *step("lookup"),
    *float32_only("sketch_scores", "sketch_queries"),
    *wrong_rank("sketch_scores", "sketch_queries"),
    *wrong_size("sketch_scores", "sketch_queries", 0, 1),
    *shapes("sketch_scores", "sketches", int64=Tensor.long, float=Tensor.float),
    *wrong_rank("sketch_scores", "sketches"),
    *wrong_size("sketch_scores", "sketches", 0, blamed="norms"),
    *wrong_size("sketch_scores", "sketches", 1, blamed="sketch_queries"),
    *float32_only("sketch_scores", "norms"),
    *wrong_rank("sketch_scores", "norms"),
    *wrong_size("sketch_scores", "norms", 0),
    *ids("sketch_scores", "candidates", 40),
    *wrong_size("sketch_scores", "candidates", 0, blamed="sketch_queries"),
    *ids("select", "candidates", 40),
    *float32_only("select", "scores"),
    *wrong_rank("select", "scores"),
    *wrong_size("select", "scores", 0, 1),
    *ids("select", "labels", 40),
    *wrong_size("select", "labels", 0),
    *ids("select", "shared", 40),
    *numbers("select", "random", -1, 9),
    *numbers("select", "active", -1, 2, blamed="random"),
    *numbers("select", "n_rows", 0, -1, 2**31),
    *step("select"),
    *ids("shared_rows", "labels", 40),
    *numbers("shared_rows", "count", -1),
    *numbers("shared_rows", "max_labels", -1, 9),
    *numbers("shared_rows", "n_rows", 0, -1, 2**31),
    *step("shared_rows"),
    *layer("gather_linear", 20),
    *same_dtype("gather_linear", "bias"),
    *wrong_rank("gather_linear", "bias"),
    *wrong_size("gather_linear", "bias", 0),
    *layer("gather_linear_backward", 20),
    *same_dtype("gather_linear_backward", "grad_z"),
    *wrong_rank("gather_linear_backward", "grad_z"),
    *wrong_size("gather_linear_backward", "grad_z", 0, 1),
    *ids("gather_linear_backward", "extra_rows", 20),
    *same_dtype("gather_linear_backward", "extra_grad"),
    *wrong_rank("gather_linear_backward", "extra_grad"),
    *wrong_size("gather_linear_backward", "extra_grad", 0, 1),
    *shapes("gather_linear_backward", "extra_grad", missing=value(None)),
    Bad("gather_linear_backward", "extra_rows", "missing", value(None), blamed="extra_grad"),
    *same_dtype("gather_linear_backward", "extra_bias"),
    *wrong_rank("gather_linear_backward", "extra_bias"),
    *wrong_size("gather_linear_backward", "extra_bias", 0),
    *floating_only("combine_rows", "weight"),
    *wrong_rank("combine_rows", "weight"),
    *same_dtype("combine_rows", "values"),
    *wrong_rank("combine_rows", "values"),
    *wrong_size("combine_rows", "values", 0, 1),
    *ids("combine_rows", "rows", 20),
    *sparse_layer("gather_sparse_linear"),
    *same_dtype("gather_sparse_linear", "bias"),
    *wrong_rank("gather_sparse_linear", "bias"),
    *wrong_size("gather_sparse_linear", "bias", 0),
    *sparse_layer("gather_sparse_linear_backward"),
    *same_dtype("gather_sparse_linear_backward", "grad_z"),
    *wrong_rank("gather_sparse_linear_backward", "grad_z"),
    *wrong_size("gather_sparse_linear_backward", "grad_z", 0, 1),
    *floating_only("scatter_rows", "values"),
    *wrong_rank("scatter_rows", "values"),
    *wrong_size("scatter_rows", "values", 0, 1),
    *ids("scatter_rows", "rows", 20),
    *numbers("scatter_rows", "n_rows", -1),
    Bad("scatter_rows", "n_rows", "too-few", value(5), blamed="rows", needs_values=True),
    *any_ids("distinct_labels", "labels"),
    *any_ids("find_shared", "rows"),
    *any_ids("find_shared", "shared"),
    *active_logits("active_log_prob"),
    *any_ids("active_log_prob", "labels"),
    *wrong_size("active_log_prob", "labels", 0),
    *shapes("active_log_prob", "labels", wide=lambda t: t.repeat(1, 4)),
    *active_logits("active_log_prob_backward"),
    *same_dtype("active_log_prob_backward", "grad_log_prob"),
    *wrong_rank("active_log_prob_backward", "grad_log_prob"),
    *wrong_size("active_log_prob_backward", "grad_log_prob", 0),
    *float32_only("active_log_prob_backward", "logsumexp"),
    *wrong_rank("active_log_prob_backward", "logsumexp"),
    *wrong_size("active_log_prob_backward", "logsumexp", 0),
    *ids("active_log_prob_backward", "places", 2 + 5 + 5 + 1),
    *wrong_size("active_log_prob_backward", "places", 0),
    *shapes("active_log_prob_backward", "places", wide=lambda t: t.repeat(1, 4)),
    *shapes("row_ids", "ids", int32=Tensor.int, float=Tensor.float),
    *wrong_rank("row_ids", "ids"),
    *(
        Bad("row_ids", "ids", str(number), with_value(3, number), needs_values=True)
        for number in (-1, 2**31)
    ),
    *update("sgd_rows_", "momentum_buffer"),
    *update("adagrad_rows_", "sum"),
    *update("adam_rows_", "exp_avg", "exp_avg_sq", narrow=True),
    Bad("adam_rows_", "exp_avg", "bfloat16", Tensor.bfloat16, blamed="exp_avg_sq"),
    Bad("adam_rows_", "exp_avg_sq", "bfloat16", Tensor.bfloat16),
    Bad("adam_rows_", "exp_avg_sq", "row-wise-bfloat16", lambda t: t[:, 0].bfloat16()),
    Bad("adam_rows_", "exp_avg_sq", "float32", Tensor.float, given=(("narrow", True),)),
    Bad("sgd_rows_", "momentum_buffer", "row-wise", lambda t: t[:, 0].contiguous()),
    Bad("adam_rows_", "exp_avg", "row-wise", lambda t: t[:, 0].contiguous()),
    *float32_only("adam_rows_", "step"),
    *shapes("adam_rows_", "step", none=lambda t: t.new_empty(0), two=lambda t: t.repeat(2)),
    *(
        Bad("adam_rows_", "step", str(number), with_value(0, number), needs_values=True)
        for number in (0.0, -1.0, torch.nan)
    ),
]


def test_the_table_has_every_argument() -> None:
    """All but settings that may take any value."""
    any_value = {"seed", "first_table", "fill", "lr", "eps", "weight_decay", "decoupled"}
    any_value |= {"momentum", "nesterov", "beta1", "beta2"}
    for name in samples.OPS:
        changed = {bad.argument for bad in CASES if bad.op == name}
        wanted = {argument.name for argument in samples.overload(name)._schema.arguments}
        assert wanted - changed <= any_value, name


@pytest.mark.parametrize("call", [samples.kernel, samples.fallback])
@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.id)
def test_bad_input_is_refused(bad: Bad, call: samples.Path) -> None:
    args = bad.args()
    before = samples.clone(args)
    with pytest.raises(RuntimeError) as error:
        call(bad.op)(*args)
    assert f"hashdl::{bad.op}: {bad.blamed or bad.argument}: " in str(error.value)
    samples.assert_same_bits(samples.tensors(args), samples.tensors(before))


@pytest.mark.parametrize(
    "bad", [bad for bad in CASES if not bad.needs_values], ids=lambda bad: bad.id
)
def test_bad_shapes_are_refused_while_tracing(bad: Bad) -> None:
    real = bad.args()
    with FakeTensorMode() as mode:
        args = [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in real]
        with pytest.raises(RuntimeError) as error:
            samples.overload(bad.op)(*args)
    assert f"hashdl::{bad.op}: {bad.blamed or bad.argument}: " in str(error.value)
