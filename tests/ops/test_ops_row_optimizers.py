"""The row optimizers against torch's own, and what they must leave alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ops_samples as samples
import pytest
import torch
from torch import Tensor

from hashdl import ops

N, STEPS = 12, 4
Step = Callable[[Tensor, Tensor, Tensor, int], None]
AVERAGES = ("exp_avg", "exp_avg_sq")


def sgd(momentum: float, nesterov: bool) -> Any:
    def make(weight: Tensor) -> Step:
        buffer = torch.zeros_like(weight) if momentum else None
        return lambda w, rows, grad, t: ops.sgd_rows_(
            w, buffer, rows, grad, lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.01
        )

    settings = {"lr": 0.1, "momentum": momentum, "nesterov": nesterov, "weight_decay": 0.01}
    return make, lambda weight: torch.optim.SGD([weight], **settings)


def adagrad() -> Any:
    def make(weight: Tensor) -> Step:
        total = torch.zeros_like(weight)
        return lambda w, rows, grad, t: ops.adagrad_rows_(
            w, total, rows, grad, lr=0.1, weight_decay=0.01
        )

    return make, lambda weight: torch.optim.Adagrad([weight], lr=0.1, weight_decay=0.01)


def adam(decoupled: bool) -> Any:
    def make(weight: Tensor) -> Step:
        averages = torch.zeros_like(weight), torch.zeros_like(weight)
        return lambda w, rows, grad, t: ops.adam_rows_(
            *(w, *averages, rows, grad),
            lr=0.1,
            weight_decay=0.01,
            decoupled=decoupled,
            step=torch.tensor(float(t)),
        )

    theirs = torch.optim.AdamW if decoupled else torch.optim.Adam
    return make, lambda weight: theirs([weight], lr=0.1, weight_decay=0.01)


CONTENDERS = {
    "sgd": sgd(0.0, False),
    "momentum": sgd(0.9, False),
    "nesterov": sgd(0.9, True),
    "adagrad": adagrad(),
    "adam": adam(False),
    "adamw": adam(True),
}


@pytest.mark.parametrize("shape", [(N, 5), (N, 35), (N,)])
@pytest.mark.parametrize("name", CONTENDERS)
def test_steps_on_all_rows_are_those_of_torch(name: str, shape: tuple[int, ...]) -> None:
    make, theirs = CONTENDERS[name]
    ours = samples.randn(*shape, dtype=torch.float64)
    weight = torch.nn.Parameter(ours.clone())
    step, optimizer = make(ours), theirs(weight)
    for t in range(1, STEPS + 1):
        rows = torch.randperm(N, generator=torch.Generator().manual_seed(t))
        weight.grad = samples.randn(*shape, dtype=torch.float64, seed=t)
        step(ours, rows.int(), weight.grad[rows], t)
        optimizer.step()
    torch.testing.assert_close(ours, weight.detach(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", samples.DTYPES)
@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize("name", ["sgd_rows_", "adagrad_rows_", "adam_rows_"])
def test_other_rows_stay_to_the_bit(name: str, row_wise: bool, dtype: torch.dtype) -> None:
    kind = {} if name == "sgd_rows_" else {"row_wise": row_wise}
    given = samples.sample_dict(name, dtype=dtype, **kind)
    before = samples.clone(tuple(given.values()))
    samples.kernel(name)(*given.values())
    rows = given["rows"].long()
    others = [row for row in range(given["weight"].shape[0]) if row not in rows.tolist()]
    schema = samples.overload(name)._schema.arguments
    for argument, old in zip(schema, before, strict=True):
        if argument.alias_info is not None and argument.alias_info.is_write:
            new = given[argument.name]
            assert torch.equal(new[others], old[others])
            assert not torch.equal(new[rows], old[rows])


@pytest.mark.parametrize("name", ["adagrad_rows_", "adam_rows_"])
def test_row_wise_is_full_where_all_squares_of_a_row_are_equal(name: str) -> None:
    state = {"adagrad_rows_": "sum", "adam_rows_": "exp_avg_sq"}[name]
    full = samples.sample_dict(name, dtype=torch.float64, weight_decay=0.0)
    full["grad"] = full["grad"].sign()
    full[state] = full[state][:, :1].expand_as(full[state]).contiguous()
    compact = full | {"weight": full["weight"].clone(), state: full[state][:, 0].contiguous()}
    if name == "adam_rows_":
        compact["exp_avg"] = full["exp_avg"].clone()
    for given in (full, compact):
        samples.kernel(name)(*given.values())
    torch.testing.assert_close(full["weight"], compact["weight"])
    torch.testing.assert_close(full[state][:, 0], compact[state])


def test_the_first_adam_steps_are_bias_corrected_in_double() -> None:
    """1 - 0.999 has four digits in float32: the first step would be off by 1e-5."""
    weight = torch.zeros(1, 1)
    state = torch.zeros(1, 1), torch.zeros(1, 1)
    rows, grad = samples.int32([0]), torch.full((1, 1), 3.0)
    ops.adam_rows_(weight, *state, rows, grad, lr=1.0, eps=0.0, step=torch.tensor(1.0))
    assert weight.item() == pytest.approx(-1.0, abs=1e-6)


@pytest.mark.parametrize("call", [samples.kernel, samples.fallback])
@pytest.mark.parametrize("name", ["sgd_rows_", "adagrad_rows_", "adam_rows_"])
def test_an_entry_with_the_row_of_the_one_before_is_skipped(call: samples.Path, name: str) -> None:
    given = samples.sample_dict(name)
    padded = {
        "rows": torch.cat([given["rows"], given["rows"][-1:].expand(70)]),
        "grad": torch.cat([given["grad"], samples.randn(70, *given["grad"].shape[1:])]),
    }
    expected = samples.run(call(name), tuple(given.values()))
    actual = samples.run(call(name), tuple((given | padded).values()))
    names = [key for key, value in given.items() if isinstance(value, Tensor)]
    for key, got, wanted in zip(names, actual, expected, strict=True):
        if key not in padded:
            assert torch.equal(got, wanted), key


# ---- states in bfloat16 --------------------------------------------------------------------------


def _neighbours(values: Tensor) -> tuple[Tensor, Tensor]:
    """The bfloat16 numbers around positive float32 ones, as float32: not above, and above."""
    bits = values.view(torch.int32) & ~0xFFFF
    return bits.view(torch.float32), (bits + 0x10000).view(torch.float32)


@pytest.mark.parametrize("call", [samples.kernel, samples.fallback])
def test_states_in_bfloat16_are_rounded_to_neighbours(call: samples.Path) -> None:
    narrow = samples.sample_dict("adam_rows_", N=40, U=40, d=200, narrow=True)
    wide = {key: value.float() if key in AVERAGES else value for key, value in narrow.items()}
    wide["weight"] = wide["weight"].clone()
    for given in (narrow, wide):
        call("adam_rows_")(*given.values())
    torch.testing.assert_close(narrow["weight"], wide["weight"])  # of what is not rounded yet
    for name in AVERAGES:
        exact, got = wide[name], narrow[name].float()
        below, above = _neighbours(exact.abs())
        assert bool(((got.abs() == below) | (got.abs() == above)).all())
        assert torch.equal(got.sign(), exact.sign())
        share = (got.abs() == above).double().mean()
        wanted = ((exact.abs() - below) / (above - below)).double().mean()
        assert share == pytest.approx(float(wanted), abs=5 * 0.5 / exact.numel() ** 0.5)


@pytest.mark.parametrize("call", [samples.kernel, samples.fallback])
@pytest.mark.parametrize("d", [None, 1, 130])
def test_the_expectation_of_what_is_rounded_is_exact(call: samples.Path, d: int | None) -> None:
    """A second moment that falls by .1 % a step, a quarter of the way to the number below."""
    N, steps = 20_000 if d in (None, 1) else 200, 40
    shape = (N,) if d is None else (N, d)
    weight, grad = torch.zeros(shape), torch.zeros(shape)
    exp_avg, exp_avg_sq = (torch.ones(shape, dtype=torch.bfloat16) for _ in range(2))
    rows = torch.arange(N, dtype=torch.int32)
    for step in range(1, steps + 1):
        options = (1e-3, 0.999, 0.999, 1e-8, 0.0, False, torch.tensor(float(step)), 0)
        call("adam_rows_")(weight, exp_avg, exp_avg_sq, rows, grad, *options)
    for average in (exp_avg, exp_avg_sq):
        # Each step's error is independent, with at most half of 2^-8 below 1 as its deviation.
        bound = 5 * 2**-9 * steps**0.5 / average.numel() ** 0.5
        assert average.double().mean() == pytest.approx(0.999**steps, abs=bound)
    nearest = torch.ones((), dtype=torch.bfloat16)
    for _ in range(steps):
        nearest = (0.999 * nearest.float()).bfloat16()
    assert nearest == 1  # where it would have stayed


@pytest.mark.parametrize("call", [samples.kernel, samples.fallback])
def test_draws_are_of_seed_step_row_and_state_alone(call: samples.Path) -> None:
    """And not of what else is in the call."""
    given = samples.sample_dict("adam_rows_", N=40, U=40, d=200, narrow=True)
    names = [key for key, value in given.items() if isinstance(value, Tensor)]

    def states(**changes: Any) -> list[Tensor]:
        results = samples.run(call("adam_rows_"), tuple((given | changes).values()))
        return [results[names.index(name)] for name in AVERAGES]

    whole = states()
    half = {"rows": given["rows"][1::2], "grad": given["grad"][1::2]}
    touched = half["rows"].long()
    for name, part, full in zip(AVERAGES, states(**half), whole, strict=True):
        assert torch.equal(part[touched], full[touched]), name
    for state in states(seed=6):
        assert not any(torch.equal(state, full) for full in whole)
    alike = {"exp_avg_sq": given["exp_avg"].clone(), "grad": torch.zeros_like(given["grad"])}
    first, second = states(**alike, beta1=0.999, weight_decay=0.0)
    assert (first != second).double().mean() > 0.1


@pytest.mark.parametrize("call", [samples.kernel, samples.fallback])
def test_states_in_bfloat16_keep_what_is_not_finite(call: samples.Path) -> None:
    given = samples.sample_dict("adam_rows_", N=3, U=3, d=70, narrow=True)
    given["rows"] = samples.int32([0, 1, 2])
    given["exp_avg"][0], given["exp_avg_sq"][1] = torch.nan, torch.inf
    call("adam_rows_")(*given.values())
    assert bool(given["exp_avg"][0].isnan().all())
    assert bool((given["exp_avg_sq"][1] == torch.inf).all())
    assert bool(given["exp_avg_sq"][[0, 2]].isfinite().all())
