"""HashSoftmaxWithLoss against cross entropy, and against its own definition written naively."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from module_helpers import CONFIG, ON_DEVICES, D, N, dense_grad, inputs
from torch import Tensor, nn

from hashdl import HashConfig, HashSoftmaxWithLoss, ops

# Beside their labels, samples see 20 classes, 10 of them drawn.
HEAD = CONFIG.replace(random=0.5)


def make_head(
    n_classes: int = N,
    bias: bool = True,
    dtype: torch.dtype = torch.float32,
    config: HashConfig = HEAD,
    **changes: object,
) -> HashSoftmaxWithLoss:
    torch.manual_seed(0)
    config = config.replace(**changes)
    head = HashSoftmaxWithLoss(D, n_classes, bias, config=config, dtype=dtype, device="cpu")
    return head.to(torch.get_default_device())


def all_logits(head: HashSoftmaxWithLoss, x: Tensor) -> Tensor:
    return F.linear(x, head.weight, head.linear.bias)


def csr(samples: list[list[int]], n_classes: int = N) -> Tensor:
    offsets = torch.tensor([0, *map(len, samples)]).cumsum(0)
    columns = torch.tensor([label for sample in samples for label in sample], dtype=torch.int64)
    return torch.sparse_csr_tensor(
        offsets,
        columns,
        torch.ones(len(columns)),
        (len(samples), n_classes),
        check_invariants=False,
    )


def padded(samples: list[list[int]]) -> Tensor:
    width = max(map(len, samples))
    rows = [sample + [-1] * (width - len(sample)) for sample in samples]
    return torch.tensor(rows, dtype=torch.int64)


SINGLE = [[3], [7], [3], [199]]
MULTI = [[3, 7, 150], [], [7], [20, 20, 5, 5, 5], [199, 3]]
EARLY_PADDING = torch.tensor([[-1, 4, 9], [4, -1, 4], [-1, -1, -1], [0, 1, 2]])


def targets_of(samples: list[list[int]]) -> dict[str, Tensor]:
    forms = {"padded": padded(samples), "csr": csr(samples)}
    if all(len(sample) == 1 for sample in samples):
        forms["flat"] = torch.tensor([sample[0] for sample in samples])
    return forms


TARGETS = [
    pytest.param(form, samples, id=f"{name}-{form}")
    for name, samples in (("single", SINGLE), ("multi", MULTI), ("none", [[], []]))
    for form in targets_of(samples)
]


# ---- the interface of nn.AdaptiveLogSoftmaxWithLoss --------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_the_interface_is_that_of_adaptive_log_softmax(training: bool) -> None:
    adaptive = nn.AdaptiveLogSoftmaxWithLoss(D, N, [20, 100]).train(training)
    head = make_head().train(training)
    assert (head.in_features, head.n_classes) == (adaptive.in_features, adaptive.n_classes)
    for x, target in (
        (inputs(5), torch.arange(5)),
        (inputs(), torch.tensor(4)),
        (inputs(1), torch.tensor([7])),
    ):
        ours, theirs = head(x, target), adaptive(x, target)
        assert ours._fields == theirs._fields
        output, loss = ours
        assert output.shape == theirs.output.shape
        assert loss.shape == theirs.loss.shape
        torch.testing.assert_close(loss, -output.mean())
        assert head.log_prob(x).shape == (*x.shape[:-1], N)
        assert head.predict(x).shape == x.shape[:-1]
        assert head.predict(x).dtype == torch.int64


def test_unbatched_multi_label() -> None:
    head = make_head().eval()
    x, labels = inputs(), torch.tensor([4, 9, -1])
    output, loss = head(x, labels)
    torch.testing.assert_close(output, head.log_prob(x)[[4, 9]].mean())
    torch.testing.assert_close(loss, -output)


@pytest.mark.parametrize("batch", [1, 300])
def test_log_prob_predict_and_topk(batch: int) -> None:
    head = make_head(dtype=torch.float64)
    x = inputs(batch, dtype=torch.float64)
    log_prob = head.log_prob(x)
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(batch, dtype=torch.float64))
    torch.testing.assert_close(log_prob, all_logits(head, x).log_softmax(1))
    assert torch.equal(head.predict(x), log_prob.argmax(1))
    values, classes = head.topk(x, 5, exact=True)
    wanted = all_logits(head, x).topk(5)
    assert torch.equal(classes, wanted.indices)
    torch.testing.assert_close(values, wanted.values)
    assert torch.equal(head.topk(x, 5)[1], head.linear.topk(x, 5)[1])
    assert [part.shape for part in head.topk(x[0], 5, exact=True)] == [(5,), (5,)]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("k", [0, N + 1])
def test_topk_out_of_range(k: int, exact: bool) -> None:
    with pytest.raises(ValueError, match=f"k: got {k}, wanted an int of 1 to out_features = {N}"):
        make_head().topk(inputs(2), k, exact=exact)


# ---- where the loss is cross entropy -----------------------------------------------------------


def multi_label_cross_entropy(logits: Tensor, samples: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Mean log probability of each sample's distinct labels, and the loss."""
    log_prob = logits.log_softmax(1)
    output = torch.stack(
        [
            log_prob[b, list(set(sample))].mean() if sample else 0 * log_prob[b, 0]
            for b, sample in enumerate(samples)
        ]
    )
    return output, -output.sum() / max(1, sum(bool(sample) for sample in samples))


RETRIEVE_ALL = {"active": N - 1, "random": 0, "tables": 16, "bits": 1, "cap": N}
COVERING = {
    "eval": {},
    "dense": {"active": N, "random": 0},
    "retrieved": RETRIEVE_ALL,
    "sketch": {**RETRIEVE_ALL, "selection": "sketch"},
    "shared": {**RETRIEVE_ALL, "shared": 50},
    "shared and log_q": {**RETRIEVE_ALL, "shared": 50, "log_q": True},
}


@ON_DEVICES
@pytest.mark.parametrize(("form", "samples"), TARGETS)
@pytest.mark.parametrize("cover", COVERING)
def test_with_all_classes_covered_the_loss_is_cross_entropy(
    cover: str, form: str, samples: list[list[int]]
) -> None:
    head = make_head(dtype=torch.float64, **COVERING[cover])
    head.train(cover != "eval")
    x = inputs(len(samples), dtype=torch.float64).requires_grad_()
    output, loss = head(x, targets_of(samples)[form])
    wanted_output, wanted_loss = multi_label_cross_entropy(all_logits(head, x), samples)
    torch.testing.assert_close(output, wanted_output)
    torch.testing.assert_close(loss, wanted_loss)
    parameters = [x, *head.parameters()]
    ours = torch.autograd.grad(loss, parameters)
    wanted = torch.autograd.grad(wanted_loss, parameters)
    for our, want in zip(ours, wanted, strict=True):
        torch.testing.assert_close(our, want, rtol=1e-9, atol=1e-12)
    if all(len(sample) == 1 for sample in samples):
        flat = torch.tensor([sample[0] for sample in samples])
        torch.testing.assert_close(loss, F.cross_entropy(all_logits(head, x), flat))


# ---- the definition ----------------------------------------------------------------------------


def active_sets(
    head: HashSoftmaxWithLoss, x: Tensor, labels: Tensor
) -> tuple[list[set[int]], list[set[int]], set[int], set[int]]:
    """What the last training forward met: a sample's retrieved and drawn classes, and the batch's
    shared labels and draws. Distinct labels come first in each row of ``labels``."""
    config, linear = head.config, head.linear
    tables = linear.tables
    assert tables is not None
    shared_labels, shared_draws, left_out = set(), set(), None
    if config.shared and len(x) > 0:
        count = min(config.shared, head.n_classes)
        before = tables.step - 1  # shared classes are drawn before the step is counted
        shared, n_labels, _ = ops.shared_rows(
            torch.cat([labels.t().reshape(-1), head.recent_labels[1]]),
            count=count,
            max_labels=count - math.ceil(count / 10),
            n_rows=head.n_classes,
            seed=config.seed,
            step=before,
        )
        shared_labels = set(shared[: int(n_labels)].tolist())
        shared_draws = set(shared[int(n_labels) :].tolist()) - {-1}
        left_out = None if config.log_q else shared
    candidates = tables.lookup(x, has_bias=linear.bias is not None)
    logits = all_logits(head, x).gather(1, candidates.clamp_min(0).long()).float()
    sizes = tables.sizes
    rows = ops.select(
        candidates,
        logits,
        labels,
        left_out,
        active=sizes.A,
        random=sizes.R,
        n_rows=head.n_classes,
        seed=config.seed,
        step=tables.step,
    )
    M, best = labels.shape[1], sizes.A - sizes.R
    retrieved = [set(row[M : M + best].tolist()) - {-1} for row in rows]
    drawn = [set(row[M + best :].tolist()) - {-1} for row in rows]
    return retrieved, drawn, shared_labels, shared_draws


def naive_output(head: HashSoftmaxWithLoss, x: Tensor, labels: Tensor) -> Tensor:
    """The docstring, a sample and a class at a time; after a training forward."""
    retrieved, drawn, shared_labels, shared_draws = active_sets(head, x, labels)
    n, r = head.n_classes, head.linear.tables.sizes.R
    missed = (1 - 1 / n) ** r
    if n > len(shared_labels):
        missed *= 1 - len(shared_draws) / (n - len(shared_labels))
    log_q = math.log(1 - missed) if missed < 1 else 0.0
    outputs = []
    for b, z in enumerate(all_logits(head, x)):
        own = set(labels[b].tolist()) - {-1}
        certain = own | retrieved[b] | shared_labels
        drawn_only = (drawn[b] | shared_draws) - certain
        correction = head.config.log_q * log_q
        terms = torch.cat([z[sorted(certain)], z[sorted(drawn_only)] - correction])
        log_probs = [z[label] - terms.logsumexp(0) for label in own]
        outputs.append(torch.stack(log_probs).mean() if own else 0 * z[0])
    return torch.stack(outputs)


VARIANTS = {
    "per sample": {},
    "no draws": {"random": 0},
    "draws alone": {"random": 1.0},
    "log_q": {"log_q": True},
    "shared": {"shared": 30},
    "shared without draws": {"shared": 30, "random": 0},
    "half of log_q": {"shared": 30, "log_q": 0.5},
    "shared and log_q": {"shared": 30, "log_q": True},
    "shared and log_q without draws": {"shared": 30, "random": 0, "log_q": True},
}


@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "target",
    [padded(SINGLE)[:, 0], padded(MULTI), EARLY_PADDING, torch.full((3, 2), -1)],
    ids=["single", "multi", "early padding", "none"],
)
def test_the_loss_and_its_gradient_are_as_defined(
    target: Tensor, variant: str, sparse_grad: bool, device: str
) -> None:
    target = target.to(device)
    head = make_head(dtype=torch.float64, sparse_grad=sparse_grad, **VARIANTS[variant])
    x = inputs(len(target), dtype=torch.float64).requires_grad_()
    labels = (target if target.dim() == 2 else target[:, None]).int()
    for _ in range(3):  # other draws each time
        head.zero_grad()
        x.grad = None
        output, loss = head(x, target)
        loss.backward()
        wanted = naive_output(head, x, labels)
        torch.testing.assert_close(output, wanted, rtol=1e-9, atol=1e-9)
        n_labelled = int((labels >= 0).any(1).sum())
        torch.testing.assert_close(loss, -wanted.sum() / max(n_labelled, 1))

        parameters = [x, *head.parameters()]
        wanted_grads = torch.autograd.grad(-wanted.sum() / max(n_labelled, 1), parameters)
        ours = [x.grad, *(dense_grad(parameter) for parameter in head.parameters())]
        assert head.weight.grad.is_sparse == sparse_grad
        for our, want in zip(ours, wanted_grads, strict=True):
            torch.testing.assert_close(our, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "changes",
    [{}, {"shared": 40, "random": 0}, {"shared": 40}],
    ids=["own draws", "shared draws", "both"],
)
def test_log_q_makes_the_sum_over_all_classes_unbiased(changes: dict[str, object]) -> None:
    x, target = inputs(4, seed=5), torch.tensor([3, 9, 27, 81])
    ratios = {}
    for log_q in (False, True):
        head = make_head(log_q=log_q, **changes)
        logits = all_logits(head, x).detach()
        with torch.no_grad():
            estimates = torch.stack(
                [logits[range(4), target] - head(x, target).output for _ in range(300)]
            )
        ratio = (estimates.double().exp().mean(0) / logits.double().exp().sum(1)).log()
        ratios[log_q] = ratio.abs()
    assert (ratios[True] < 0.05).all()
    assert (ratios[True] < 0.2 * ratios[False]).all()


def dense_gradients(head: HashSoftmaxWithLoss, x: Tensor, target: Tensor) -> list[Tensor]:
    """Of inputs, weight and bias, one step of training or evaluation, in float64."""
    head.zero_grad()
    x = x.clone().requires_grad_()
    head(x, target).loss.backward()
    assert x.grad is not None
    return [x.grad, *(dense_grad(parameter) for parameter in head.parameters())]


def test_the_gradient_is_that_of_all_classes_on_average() -> None:
    """Retrieved classes, labels and shared draws under one softmax, over many seeds of the draws.

    The sum under the softmax is unbiased, its reciprocal nearly so: what is left of the bias is
    small beside that of a softmax that is not corrected.
    """
    x, target = inputs(4, seed=5, dtype=torch.float64), torch.tensor([3, 9, 27, 81])
    bias, error = {}, {}
    for log_q in (0.0, 0.5, 1.0):
        head = make_head(dtype=torch.float64, random=0, shared=60, log_q=log_q)
        estimates = [dense_gradients(head, x, target) for _ in range(400)]
        exact = dense_gradients(head.eval(), x, target)
        samples = [torch.stack(some) for some in zip(*estimates, strict=True)]
        bias[log_q] = torch.stack(
            [(some.mean(0) - all_).norm() for some, all_ in zip(samples, exact, strict=True)]
        )
        error[log_q] = torch.stack([(some.var(0).sum() / len(some)).sqrt() for some in samples])
    assert (bias[1.0] < 3 * error[1.0]).all()
    assert (bias[0.0] > 10 * error[0.0]).all()
    assert (bias[1.0] < bias[0.5]).all()
    assert (bias[0.5] < 0.7 * bias[0.0]).all()
    assert (error[0.5] < error[1.0]).all()


# ---- targets -----------------------------------------------------------------------------------


@ON_DEVICES
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shared", [0, 30])
def test_all_forms_of_a_target_mean_the_same(training: bool, shared: int) -> None:
    losses = [
        make_head(shared=shared).train(training)(inputs(4), target).loss
        for target in (*targets_of(SINGLE).values(), torch.tensor([3, 7, 3, 199]).int())
    ]
    assert all(torch.equal(loss, losses[0]) for loss in losses)


def test_labels_of_scipy_mean_the_same() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    samples = [[1, 5], [], [7, 2, 9], [0]]
    rows, columns = zip(*((b, y) for b, ys in enumerate(samples) for y in ys), strict=True)
    Y = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(4, N))
    parts = map(torch.from_numpy, (Y.indptr, Y.indices, Y.data))
    target = torch.sparse_csr_tensor(*parts, Y.shape, check_invariants=False)
    x = inputs(4)
    assert torch.equal(make_head()(x, target).loss, make_head()(x, padded(samples)).loss)


@ON_DEVICES
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shared", [0, 30])
def test_a_repeated_label_counts_once(training: bool, shared: int) -> None:
    losses = [
        make_head(shared=shared).train(training)(inputs(2), padded(samples)).loss
        for samples in ([[5, 9], [7]], [[5, 5, 9], [7, 7]], [[5, 9, 5, 5], [7]])
    ]
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0, N]), f"got labels from 0 to {N}, wanted 0 to n_classes - 1 = {N - 1}"),
        (torch.tensor([0, -1]), "got labels from -1 to 0, wanted 0 to"),
        (torch.tensor([0, 2**32]), "got labels from 0 to 4294967296"),
        (torch.tensor([[0, -2], [1, 1]]), "got labels from -2 to 1, wanted -1 to"),
        (torch.tensor([[0], [N]]), f"got labels from 0 to {N}"),
        (torch.zeros(2), "got dtype torch.float32, wanted integers"),
        (torch.zeros(2, dtype=torch.bool), "got dtype torch.bool, wanted integers"),
        (torch.zeros(3, dtype=torch.int64), r"got shape \(3,\), wanted \(2,\) or \(2, M\)"),
        (torch.zeros(2, 1, 1, dtype=torch.int64), r"got shape \(2, 1, 1\)"),
        (torch.tensor(1), r"got shape \(\)"),
        (csr([[1], [2]]).to_sparse_coo(), "got torch.sparse_coo, wanted torch.sparse_csr"),
        (F.one_hot(torch.tensor([1, 2]), N), rf"got zeros and ones of shape \(2, {N}\), wanted"),
        (csr([[1], [2], [3]]), rf"got shape \(3, {N}\), wanted \(2, {N}\)"),
        (csr([[1], [N]]), f"got labels from 1 to {N}, wanted 0 to"),
        (csr([[1], [2]], N + 1), rf"got shape \(2, {N + 1}\), wanted"),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_a_wrong_target_is_refused_and_changes_nothing(
    target: Tensor, message: str, training: bool
) -> None:
    head = make_head(shared=10).train(training)
    before = copy.deepcopy(head)
    with pytest.raises(RuntimeError, match=f"HashSoftmaxWithLoss: target: {message}"):
        head(inputs(2), target)
    for ours, theirs in zip(
        (*head.parameters(), *head.buffers()),
        (*before.parameters(), *before.buffers()),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_what_is_no_tensor_is_refused_by_name() -> None:
    head = make_head()
    with pytest.raises(TypeError, match="HashSoftmaxWithLoss: target: got list, wanted a Tensor"):
        head(inputs(2), [1, 2])
    with pytest.raises(TypeError, match="input: got ndarray, wanted a Tensor"):
        head(inputs(2).numpy(), torch.tensor([1, 2]))


@pytest.mark.parametrize(
    "x", [torch.zeros(2, D + 1), torch.zeros(2, D).double(), torch.full((2, D), torch.nan)]
)
def test_a_wrong_input_is_refused_and_no_label_was_met(x: Tensor) -> None:
    head = make_head(shared=10)
    head(inputs(2), torch.tensor([3, 4]))
    before = head.recent_labels.clone()
    with pytest.raises(RuntimeError, match="input"):
        head(x, torch.tensor([1, 2]))
    assert torch.equal(head.recent_labels, before)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shared", [0, 30])
@pytest.mark.parametrize("active", [20, 1.0])
def test_an_empty_batch_has_a_loss_and_a_gradient_of_zero(
    training: bool, shared: int, active: float | int
) -> None:
    head = make_head(shared=shared, active=active).train(training)
    output, loss = head(inputs(0), torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert output.shape == (0,)
    assert loss == 0
    assert not head.weight.grad.any()
    assert head.predict(inputs(0)).shape == (0,)


# ---- options of nn.CrossEntropyLoss ------------------------------------------------------------

# Covers all classes, so that losses are those of cross entropy.
EVERY = {"active": N - 1, "random": 0, "cap": N, "candidates": N, "probes": 16}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignored", [-100, -1, 7])
def test_reduction_and_ignored_targets_are_those_of_cross_entropy(
    training: bool, reduction: str, ignored: int
) -> None:
    head = make_head(**EVERY).train(training)
    head.reduction, head.ignore_index = reduction, ignored
    x, target = inputs(2, 3), torch.tensor([[3, ignored, 5], [ignored, 0, 3]])
    output, loss = head(x, target)
    dense = (all_logits(head, x).flatten(0, 1), target.flatten())
    wanted = F.cross_entropy(*dense, reduction=reduction, ignore_index=ignored)
    torch.testing.assert_close(loss, wanted.reshape(loss.shape))
    assert output.shape == target.shape
    assert not output[target == ignored].any()


@pytest.mark.parametrize("training", [False, True])
def test_several_labels_of_inputs_of_any_shape(training: bool) -> None:
    head = make_head().train(training)
    x, target = (
        inputs(2, 3),
        torch.tensor([[[3, -1], [4, 5], [-100, -1]], [[6, 6], [7, 0], [8, 1]]]),
    )
    flat = copy.deepcopy(head)
    output, loss = head(x, target)
    wanted_output, wanted_loss = flat(x.flatten(0, 1), target.flatten(0, 1))
    assert torch.equal(output, wanted_output.reshape(2, 3))
    assert torch.equal(loss, wanted_loss)


@pytest.mark.parametrize("ignored", [None, "a", 1.5])
def test_an_ignored_class_is_a_number(ignored: object) -> None:
    with pytest.raises(TypeError, match=f"ignore_index: got {ignored!r}, wanted an int"):
        HashSoftmaxWithLoss(D, N, ignore_index=ignored)


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reduction: got 'avg', wanted one of \['mean'"):
        HashSoftmaxWithLoss(D, N, reduction="avg")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("changes", [{}, {"shared": 30}, {"shared": 30, "log_q": True}])
def test_samples_without_labels_have_no_loss_and_no_gradient(
    training: bool, changes: dict[str, object]
) -> None:
    head = make_head(**changes).train(training)
    x = inputs(3).requires_grad_()
    output, loss = head(x, torch.tensor([[4, 2], [-1, -1], [9, -1]]))
    loss.backward()
    assert output[1] == 0
    torch.testing.assert_close(loss, -(output[0] + output[2]) / 2)
    assert not x.grad[1].any()
    assert x.grad[[0, 2]].any(1).all()
    assert torch.isfinite(head.weight.grad).all()


# ---- as a module -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shared", [0, 30])
def test_16_bit_losses_are_near_those_of_32_bits(dtype: torch.dtype, shared: int) -> None:
    x, target = inputs(8, dtype=dtype), torch.arange(8)
    config = HEAD.replace(shared=shared, selection="union")  # no ties of rounded logits
    narrow = make_head(dtype=dtype, config=config)
    wide = make_head(dtype=torch.float32, config=config)
    wide.load_state_dict(narrow.state_dict())
    loss = narrow(x, target).loss
    loss.backward()
    assert narrow.weight.grad.dtype == dtype
    torch.testing.assert_close(loss.float(), wide(x.float(), target).loss, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("shared", [0, 30])
@pytest.mark.parametrize("training", [False, True])
def test_autocast(shared: int, training: bool) -> None:
    x, target = inputs(8), torch.arange(8)
    wanted = make_head(shared=shared).train(training)(x, target).loss
    head = make_head(shared=shared).train(training)
    with torch.autocast("cpu", torch.bfloat16):
        loss = head(x, target).loss
        loss.backward()
    torch.testing.assert_close(loss, wanted)  # in the weight's dtype
    assert torch.isfinite(head.weight.grad).all()


def test_from_linear_keeps_parameters_and_default_config_fits_few_classes() -> None:
    linear = nn.Linear(D, 50)
    head = HashSoftmaxWithLoss.from_linear(linear)
    assert head.weight is linear.weight
    assert head.linear.bias is linear.bias
    assert head.linear.tables is None
    config = HashConfig(active=30, random=20)
    assert HashSoftmaxWithLoss.from_linear(linear, config).config == config
    torch.testing.assert_close(
        head(inputs(3), torch.arange(3)).loss, F.cross_entropy(linear(inputs(3)), torch.arange(3))
    )


@pytest.mark.parametrize("training", [False, True])
def test_from_linear_keeps_the_mode(training: bool) -> None:
    head = HashSoftmaxWithLoss.from_linear(nn.Linear(D, N).train(training))
    assert [module.training for module in head.modules()] == [training] * 3


def test_copies_state_and_reset() -> None:
    head = make_head(shared=5)
    head(inputs(4), torch.arange(4))
    assert list(head.state_dict()) == ["linear.weight", "linear.bias"]
    twin = copy.deepcopy(head)
    twin.load_state_dict(head.state_dict(), strict=True)
    a, b = (module.eval()(inputs(4), torch.arange(4)).loss for module in (head, twin))
    assert torch.equal(a, b)
    empty = HashSoftmaxWithLoss(D, N, config=HEAD, device="meta").to_empty(device="cpu")
    empty.reset_parameters()
    assert torch.isfinite(empty(inputs(4), torch.arange(4)).loss)


@pytest.mark.parametrize("shared", [0, 10])
def test_a_head_made_on_no_device_takes_a_state_as_it_is(shared: int) -> None:
    state = make_head(shared=shared).state_dict()
    head = HashSoftmaxWithLoss(D, N, config=HEAD.replace(shared=shared), device="meta")
    head.load_state_dict(state, assign=True)
    for _ in range(2):
        assert torch.isfinite(head(inputs(4), torch.arange(4)).loss)


# ---- shared labels -----------------------------------------------------------------------------


def known_labels(head: HashSoftmaxWithLoss) -> list[int]:
    return [label for label in head.recent_labels[0].tolist() if label >= 0]


def test_labels_met_last_are_shared_as_far_as_there_is_room() -> None:
    head = make_head(shared=10)  # nine labels and a draw
    for target, wanted in (
        ([[3, 1], [4, -1]], [3, 4, 1]),
        ([[5, 4], [9, -1]], [5, 9, 4, 3, 1]),
        ([[20, 21], [22, 23]], [20, 22, 21, 23, 5, 9, 4, 3, 1]),
        ([[30, 31], [32, -1]], [30, 32, 31, 20, 22, 21, 23, 5, 9]),
    ):
        head(inputs(2), torch.tensor(target))
        assert known_labels(head) == wanted
    head.eval()(inputs(2), torch.tensor([7, 8]))
    assert known_labels(head)[0] == 30
    head.reset_parameters()
    assert known_labels(head) == []


def test_labels_met_before_are_in_the_softmax_for_certain() -> None:
    x, earlier, target = inputs(2), torch.tensor([40, 41]), torch.tensor([7, 8])
    head = make_head(shared=10, active=1, random=0, candidates=1, log_q=1.0)
    head(x, earlier)
    head.zero_grad()
    head(x, target).loss.backward()
    met = dense_grad(head.weight).abs().sum(1) > 0
    assert met[[7, 8, 40, 41]].all()


def test_labels_in_memory_that_nobody_has_set_are_no_labels() -> None:
    """As to_empty leaves it, and on a device where there was none before."""
    heads = [make_head(shared=10), make_head(shared=10)]
    for head in heads:
        head(inputs(2), torch.tensor([3, 4]))
    met = heads[0].recent_labels
    heads[0]._apply(lambda tensor: torch.full_like(tensor, N) if tensor is met else tensor)
    losses = [head(inputs(2), torch.tensor([7, 8])).loss for head in heads]
    assert torch.equal(*losses)
    assert known_labels(heads[0]) == known_labels(heads[1])
    head = HashSoftmaxWithLoss(D, N, config=heads[0].config, device="meta").to_empty(device="cpu")
    assert known_labels(head) == []
