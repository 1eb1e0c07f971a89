"""active_log_prob by what it means: softmax over the active rows, and torch's own losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ops_samples as samples
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hashdl import functional, ops

sizes = st.integers(0, 6)
shared_sizes = st.none() | st.integers(0, 20)


def whole_logits(args: samples.Args, N: int) -> Tensor:
    """Logits (B, N) of all rows, -inf where a row is not active."""
    z, s, rows, shared, _ = args
    logits, ids = z, rows
    if s is not None:
        logits, ids = torch.cat([z, s], 1), torch.cat([rows, shared.expand(s.shape)], 1)
    column = torch.where(ids < 0, N, ids).long()  # one more takes the padding, and is dropped
    whole = torch.full((z.shape[0], N + 1), -torch.inf, dtype=z.dtype)
    return whole.scatter(1, column, logits)[:, :N]


def naive_log_prob(args: samples.Args, N: int) -> Tensor:
    """By log_softmax over all rows."""
    labels = args[-1]
    counted = labels >= 0
    # A sample without labels may have no logits either: -inf alone has a gradient of NaN.
    whole = whole_logits(args, N).masked_fill(~counted.any(1, keepdim=True), 0)
    log_probs = whole.log_softmax(1).gather(1, labels.clamp_min(0).long())
    return log_probs.masked_fill(~counted, 0).sum(1) / counted.sum(1).clamp_min(1)


def logits_of(args: samples.Args) -> list[Tensor]:
    return [logits.requires_grad_() for logits in samples.tensors(args[:2])]


@given(sizes, sizes, sizes, shared_sizes, st.integers(1, 30))
@samples.few_examples
def test_values_and_gradients_are_those_of_the_whole_softmax(
    B: int, M: int, A: int, T: int | None, N: int
) -> None:
    args = samples.active_log_prob_args(B, M, A, T, N, torch.float64)
    logits = logits_of(args)
    log_prob, expected = functional.active_log_prob(*args), naive_log_prob(args, N)
    torch.testing.assert_close(log_prob, expected)
    weights = samples.randn(B, dtype=torch.float64, seed=1)
    grads = torch.autograd.grad(log_prob @ weights, logits)
    wanted = torch.autograd.grad(expected @ weights, logits)
    torch.testing.assert_close(grads, wanted)


@pytest.mark.parametrize("T", [None, 0, 1, 6])
def test_gradcheck(T: int | None) -> None:
    z, s, rows, shared, labels = samples.active_log_prob_args(T=T, dtype=torch.float64)
    assert (rows < 0).any()
    assert (labels < 0).any()

    def log_prob(*logits: Tensor) -> Tensor:
        return functional.active_log_prob(*(logits if T else (*logits, s)), rows, shared, labels)

    assert torch.autograd.gradcheck(log_prob, logits_of((z, s if T else None)))


@pytest.mark.parametrize("dtype", samples.DTYPES)
@pytest.mark.parametrize("is_shared", [False, True])
def test_it_is_cross_entropy_where_every_class_is_active(
    is_shared: bool, dtype: torch.dtype
) -> None:
    B, N = 5, 37
    target = torch.arange(B) * 7
    logits = samples.randn(B, N, dtype=dtype).requires_grad_()
    if is_shared:
        everything = torch.arange(N, dtype=torch.int32)
        given = logits[:, :1].detach(), logits, samples.int32([[-1]] * B), everything
    else:  # the label first, then the others
        rows = torch.arange(N).repeat(B, 1)
        rows[torch.arange(B), target], rows[:, 0] = 0, target
        given = logits.gather(1, rows), None, rows.int(), None
    log_prob = functional.active_log_prob(*given, target[:, None].int())
    expected = -F.cross_entropy(logits.double(), target, reduction="none")
    bound = samples.TOLERANCE[dtype]
    torch.testing.assert_close(log_prob, expected.to(dtype), rtol=bound, atol=bound)
    (ours,) = torch.autograd.grad(log_prob.sum(), logits)
    (wanted,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(ours, wanted, rtol=bound, atol=bound)


def test_sums_and_places_come_along_without_a_gradient() -> None:
    args = samples.active_log_prob_args()
    logits_of(args)
    log_prob, logsumexp, places = ops.active_log_prob(*args)
    assert [t.requires_grad for t in (log_prob, logsumexp, places)] == [True, False, False]
    torch.testing.assert_close(logsumexp, whole_logits(args, 40).logsumexp(1).detach())
    _, s, rows, shared, labels = args
    ids = torch.cat([rows, shared.expand(s.shape)], 1)
    found = ids.gather(1, places.clamp_min(0).long())
    assert torch.equal(torch.where(places < 0, -1, found), labels)
    assert (places >= rows.shape[1]).any()


def test_a_label_that_is_not_active_has_no_probability() -> None:
    z, rows = torch.zeros(1, 3), samples.int32([[-1, 4, 5]])
    log_prob, logsumexp, places = ops.active_log_prob(z, None, rows, None, samples.int32([[7]]))
    assert log_prob.tolist() == [-torch.inf]
    torch.testing.assert_close(logsumexp.exp(), torch.tensor([2.0]))
    assert places.tolist() == [[3]]


def test_a_sample_without_labels_has_no_loss_and_no_gradient_whatever_its_logits() -> None:
    logits = torch.tensor([[torch.nan, 1.0], [-torch.inf, -torch.inf], [0.0, 0.0]])
    z, s = logits.requires_grad_(), logits.detach().clone().requires_grad_()
    rows, shared = samples.int32([[1, 2]] * 3), samples.int32([3, 4])
    labels = samples.int32([[-1], [-1], [1]])
    log_prob = functional.active_log_prob(z, s, rows, shared, labels)
    torch.testing.assert_close(log_prob.exp(), torch.tensor([1.0, 1.0, 0.25]))
    for grad in torch.autograd.grad(log_prob.sum(), (z, s)):
        assert not grad[:2].any()
        assert grad[2].all()


@pytest.mark.parametrize("dtype", samples.DTYPES)
@pytest.mark.parametrize("place", [0, 3, 18, 24])  # in a vector and after the last one, of z and s
def test_nan_is_passed_on_but_not_from_padding(place: int, dtype: torch.dtype) -> None:
    logits = torch.zeros(2, 25, dtype=dtype)
    logits[:, place] = torch.nan
    ids = torch.arange(25, dtype=torch.int32).repeat(2, 1)
    for padded in (False, True):
        ids[:, place] = -1 if padded else place
        given = logits[:, :19], logits[:, 19:], ids[:, :19], ids[0, 19:], samples.int32([[1], [20]])
        leaves = logits_of(tuple(part.clone() for part in given[:2]))
        log_prob = functional.active_log_prob(*leaves, *given[2:])
        grads = torch.cat(torch.autograd.grad(log_prob.sum(), leaves), 1)
        assert log_prob.isnan().all() == (not padded)
        assert grads.isnan().all() == (not padded)
        assert grads.isfinite().all() == padded
        assert not padded or (grads[:, place] == 0).all()


def test_sums_of_16_bit_logits_are_in_float32() -> None:
    """256 + 1 + 1 ... stays 256 where bfloat16 sums."""
    z = torch.zeros(1, 512, dtype=torch.bfloat16)
    rows = torch.arange(512, dtype=torch.int32)[None]
    log_prob, logsumexp, _ = ops.active_log_prob(z, None, rows, None, rows[:, :1])
    torch.testing.assert_close(logsumexp, torch.tensor([512.0]).log())
    assert log_prob.dtype == torch.bfloat16


# ---- active_linear_log_prob ----------------------------------------------------------------------

COMPOSED = [
    *(
        {"T": T, "known": known, "log_q": log_q}
        for T in (None, 3)
        for known in (False, True)
        for log_q in (False, True)
    ),
    {"bias": False},
    {"B": 0},
    {"dtype": torch.bfloat16, "log_q": True},
]


def composed(args: samples.Args) -> Tensor:
    """active_log_prob of active_linear, minus log q."""
    *layer, labels, log_q, shared_log_q, places, sparse_grad = args
    rows, shared = layer[3:5]
    z, s = functional.active_linear(*layer, sparse_grad=sparse_grad)
    z = z if log_q is None else z - log_q
    s = s if shared_log_q is None else s - shared_log_q
    if places is not None:
        sample, column = (places >= 0).nonzero(as_tuple=True)
        left_out = torch.zeros_like(s, dtype=torch.bool)
        left_out[sample, places[sample, column].long()] = True
        s = s.masked_fill(left_out, -torch.inf)
    return functional.active_log_prob(z, None if shared is None else s, rows, shared, labels)


def fused(args: samples.Args) -> Tensor:
    return torch.ops.hashdl.active_linear_log_prob(*args)[0]


@pytest.mark.parametrize("parameters", COMPOSED, ids=str)
def test_a_layers_log_prob_is_that_of_its_outputs(parameters: dict[str, Any]) -> None:
    values, grads = [], []
    for compute in (fused, composed):
        args = samples.active_linear_log_prob_args(requires_grad=True, **parameters)
        log_prob = compute(args)
        values.append(log_prob)
        leaves = [leaf for leaf in args[:3] if leaf is not None]
        grads.append(torch.autograd.grad(log_prob.sum(), leaves))
    assert torch.equal(*values)
    for ours, theirs in zip(*grads, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("T", [None, 3])
def test_gradcheck_of_a_layers_log_prob(T: int | None) -> None:
    args = samples.active_linear_log_prob_args(
        T=T, log_q=True, requires_grad=True, dtype=torch.float64
    )
    assert torch.autograd.gradcheck(lambda *layer: fused((*layer, *args[3:])), args[:3])


@pytest.mark.parametrize(("place", "argument"), [(7, "log_q"), (8, "shared_log_q"), (9, "places")])
@pytest.mark.parametrize("change", [lambda q: q[..., :-1], Tensor.double], ids=["narrow", "dtype"])
def test_corrections_that_do_not_fit_are_refused(
    place: int, argument: str, change: Callable[[Tensor], Tensor]
) -> None:
    args = list(samples.active_linear_log_prob_args(log_q=True))
    args[place] = change(args[place])
    with pytest.raises(RuntimeError, match=f"hashdl::active_linear_log_prob: {argument}: got"):
        fused(tuple(args))
