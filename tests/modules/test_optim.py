"""Row optimizers against torch's: equal where every row is touched, idle where none is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from module_helpers import ON_DEVICES, D, inputs, make_layer, randn
from torch import Tensor, nn

from hashdl.optim import SGD, Adagrad, Adam, AdamW, RowWiseAdagrad, RowWiseAdam, clip_grad_norm_
from hashdl.optim.sparse import merged

ROWS = 30
Make = Callable[..., torch.optim.Optimizer]

AGAINST_TORCH = [
    (SGD, torch.optim.SGD, {"lr": 0.1}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (Adagrad, torch.optim.Adagrad, {"lr": 0.1}),
    (
        Adagrad,
        torch.optim.Adagrad,
        {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
    ),
    (Adam, torch.optim.Adam, {"lr": 0.1}),
    (Adam, torch.optim.Adam, {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    (Adam, torch.optim.AdamW, {"weight_decay": 0.1}),
    (AdamW, torch.optim.AdamW, {}),
    (AdamW, torch.optim.AdamW, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
]
OURS: list[tuple[Make, dict[str, Any]]] = [
    (SGD, {"lr": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9}),
    (Adagrad, {"lr": 0.1}),
    (RowWiseAdagrad, {"lr": 0.1}),
    (Adam, {"lr": 0.1}),
    (RowWiseAdam, {"lr": 0.1}),
]
EACH_OF_OURS = pytest.mark.parametrize(
    ("make", "options"), OURS, ids=["sgd", "momentum", "adagrad", "row_adagrad", "adam", "row_adam"]
)


NARROW: dict[str, Any] = {"state_dtype": torch.bfloat16}
EACH_OF_ALL = pytest.mark.parametrize(
    ("make", "options"),
    [*OURS, (Adam, {"lr": 0.1, **NARROW}), (RowWiseAdam, {"lr": 0.1, **NARROW})],
    ids=[
        *("sgd", "momentum", "adagrad", "row_adagrad", "adam", "row_adam"),
        *("adam_bfloat16", "row_adam_bfloat16"),
    ],
)


def parameter(*shape: int, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(randn(*shape, dtype=dtype, seed=0))


def random_grad(p: Tensor, seed: int) -> Tensor:
    return randn(*p.shape, dtype=p.dtype, seed=seed)


def sparse(grad: Tensor, rows: list[int] | None = None) -> Tensor:
    ids = torch.arange(len(grad)) if rows is None else torch.tensor(rows, dtype=torch.int64)
    return torch.sparse_coo_tensor(
        ids[None], grad[ids], grad.shape, is_coalesced=True, check_invariants=False
    )


def our_options(make: Make, reference: Make, options: dict[str, Any]) -> dict[str, Any]:
    decoupled = make is Adam and reference is torch.optim.AdamW
    return {**options, "decoupled_weight_decay": True} if decoupled else options


# ---- against torch -----------------------------------------------------------------------------


@ON_DEVICES
@pytest.mark.parametrize(("make", "reference", "options"), AGAINST_TORCH)
@pytest.mark.parametrize("shape", [(ROWS, 5), (ROWS,)])
def test_with_all_rows_touched_it_is_torchs(
    make: Make, reference: Make, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    ours, theirs = parameter(*shape), parameter(*shape)
    optimizer = make([ours], **our_options(make, reference, options))
    wanted = reference([theirs], **options)
    for step in range(6):
        theirs.grad = random_grad(theirs, step)
        ours.grad = sparse(theirs.grad)
        optimizer.step()
        wanted.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("make", "reference", "options"), AGAINST_TORCH)
def test_dense_gradients_take_torchs_step(
    make: Make, reference: Make, options: dict[str, Any]
) -> None:
    ours, theirs = parameter(ROWS, 5), parameter(ROWS, 5)
    optimizer = make([ours], **our_options(make, reference, options))
    wanted = reference([theirs], **options)
    for step in range(3):
        ours.grad = random_grad(ours, step)
        theirs.grad = random_grad(theirs, step)
        optimizer.step()
        wanted.step()
    assert torch.equal(ours, theirs)


@ON_DEVICES
def test_adam_is_lazy_as_sparse_adam() -> None:
    ours, theirs = parameter(ROWS, 5), parameter(ROWS, 5)
    # SparseAdam adds eps before it corrects the root: choose one that does not matter.
    optimizer = Adam([ours], lr=0.1, eps=1e-15)
    wanted = torch.optim.SparseAdam([theirs], lr=0.1, eps=1e-15)
    for step in range(8):
        rows = [(step * k) % ROWS for k in (1, 3, 7)]
        grad = sparse(random_grad(ours, step), sorted(set(rows)))
        ours.grad, theirs.grad = grad, grad.clone()
        optimizer.step()
        wanted.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@ON_DEVICES
@pytest.mark.parametrize(("make", "full"), [(RowWiseAdagrad, Adagrad), (RowWiseAdam, Adam)])
def test_row_wise_state_is_the_mean_over_the_row(make: Make, full: Make) -> None:
    """Where all elements of a row have the same square, both are the same."""
    ours, theirs = parameter(ROWS, 6), parameter(ROWS, 6)
    optimizer, wanted = make([ours], lr=0.1), full([theirs], lr=0.1)
    signs = random_grad(ours, 99).sign()
    for step in range(4):
        sizes = random_grad(ours, step)[:, :1].abs()
        ours.grad = sparse(signs * sizes)
        theirs.grad = sparse(signs * sizes)
        optimizer.step()
        wanted.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    squares = optimizer.state[ours]["sum" if make is RowWiseAdagrad else "exp_avg_sq"]
    assert squares.shape == (ROWS,)


def test_row_wise_adagrad_by_hand() -> None:
    weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    optimizer = RowWiseAdagrad([weight], lr=1.0, eps=0.0)
    weight.grad = sparse(torch.tensor([[0.0, 0.0], [3.0, 4.0]]).double(), [1])
    optimizer.step()
    mean = (12.5) ** 0.5
    wanted = torch.tensor([[0.0, 0.0], [-3 / mean, -4 / mean]]).double()
    torch.testing.assert_close(weight.detach(), wanted)


# ---- rows that are not touched -----------------------------------------------------------------


@ON_DEVICES
@EACH_OF_ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_untouched_rows_and_their_states_keep_every_bit(
    make: Make, options: dict[str, Any], dtype: torch.dtype
) -> None:
    weight = parameter(ROWS, 5, dtype=dtype)
    optimizer = make([weight], **options, weight_decay=0.1)
    weight.grad = sparse(random_grad(weight, 0))
    optimizer.step()
    before, state = weight.detach().clone(), copy.deepcopy(optimizer.state[weight])
    touched = [2, 5, 29]
    weight.grad = sparse(random_grad(weight, 1), touched)
    optimizer.step()
    rest = [row for row in range(ROWS) if row not in touched]
    assert torch.equal(weight[rest], before[rest])
    assert (weight[touched] != before[touched]).any(1).all()
    for name, value in optimizer.state[weight].items():
        if name != "step" and value is not None:
            row_wise = value.dim() < weight.dim()
            narrow = None if row_wise else options.get("state_dtype")
            assert value.dtype == (narrow or torch.float32)
            assert torch.equal(value[rest], state[name][rest])


@ON_DEVICES
@EACH_OF_ALL
def test_gradients_without_rows_change_nothing(make: Make, options: dict[str, Any]) -> None:
    weight = parameter(ROWS, 5)
    before = weight.detach().clone()
    optimizer = make([weight], **options)
    weight.grad = sparse(random_grad(weight, 0), [])
    optimizer.step()
    weight.grad = None
    optimizer.step()
    assert torch.equal(weight, before)


@ON_DEVICES
@EACH_OF_ALL
def test_gradients_that_are_not_coalesced(make: Make, options: dict[str, Any]) -> None:
    ours, theirs = parameter(ROWS, 5), parameter(ROWS, 5)
    a, b = make([ours], **options), make([theirs], **options)
    rows = torch.tensor([[7, 3, 7, 0]])
    values = random_grad(ours, 0)[:4]
    ours.grad = torch.sparse_coo_tensor(rows, values, ours.shape, check_invariants=False)
    theirs.grad = ours.grad.coalesce()
    assert not ours.grad.is_coalesced()
    a.step()
    b.step()
    assert torch.equal(ours, theirs)
    assert (ours != parameter(ROWS, 5)).any(1).nonzero().flatten().tolist() == [0, 3, 7]


@pytest.mark.parametrize("columns", [(), (3,)])
@pytest.mark.parametrize("rows", [[], [4], [7, 3, 7, 0]])
def test_merged_gradients_are_coalesced_ones(columns: tuple[int, ...], rows: list[int]) -> None:
    weight = nn.Parameter(torch.zeros(ROWS, *columns))
    values = torch.arange(len(rows) * max(1, sum(columns))).float().reshape(len(rows), *columns)
    grad = torch.sparse_coo_tensor(
        torch.tensor([rows], dtype=torch.long), values, weight.shape, check_invariants=False
    )
    ours, theirs = merged(weight, grad), grad.coalesce()
    assert torch.equal(ours._indices(), theirs.indices())
    assert torch.equal(ours._values(), theirs.values())


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "entries", [[], [(4, 0)], [(7, 1), (3, 2), (7, 1), (3, 0), (0, 2), (0, 2)]]
)
def test_merged_gradients_of_entries_are_coalesced_ones(
    entries: list[tuple[int, int]], transposed: bool
) -> None:
    weight = nn.Parameter(torch.zeros(3, ROWS).t() if transposed else torch.zeros(ROWS, 3))
    values = torch.arange(len(entries)).float()
    places = torch.tensor(entries, dtype=torch.long).reshape(-1, 2).t()
    grad = torch.sparse_coo_tensor(places, values, weight.shape, check_invariants=False)
    ours, theirs = merged(weight, grad), grad.coalesce()
    assert torch.equal(ours._indices(), theirs.indices())
    assert torch.equal(ours._values(), theirs.values())


@pytest.mark.parametrize("make", [Adam, RowWiseAdam])
@pytest.mark.parametrize("changes", [{"capturable": True}, {"fused": True}])
def test_where_steps_are_counted_changes_nothing(make: Make, changes: dict[str, Any]) -> None:
    weights, counts = [], []
    for options in ({}, changes):
        weight = parameter(ROWS, 5)
        optimizer = make([weight], lr=0.1, weight_decay=0.1, **options)
        for step in range(3):
            weight.grad = sparse(random_grad(weight, step), [1, 4])
            optimizer.step()
        restored = make([weight], **options)
        restored.load_state_dict(optimizer.state_dict())
        weights.append(weight.detach())
        counts.append(restored.state[weight]["step"])
    assert torch.equal(*weights)
    assert torch.equal(*counts)
    assert counts[1].device == weight.device
    assert counts[1].dtype == torch.float32


# ---- gradients of single entries ---------------------------------------------------------------


def entries_of(grad: Tensor, seed: int) -> Tensor:
    """A third of the gradient's entries."""
    kept = randn(*grad.shape, seed=seed) > 0.4
    return (grad * kept).to_sparse()


@ON_DEVICES
@pytest.mark.parametrize("transposed", [False, True])
@EACH_OF_OURS
def test_an_entry_is_a_row_of_one_element(
    make: Make, options: dict[str, Any], transposed: bool
) -> None:
    matrix, vector = parameter(ROWS, 5), nn.Parameter(parameter(ROWS, 5).detach().flatten())
    if transposed:
        matrix = nn.Parameter(matrix.detach().t().contiguous().t())
    optimizer, flat = make([matrix], **options), make([vector], **options)
    for step in range(4):
        matrix.grad = entries_of(random_grad(matrix, step), step)
        vector.grad = sparse(
            matrix.grad.to_dense().flatten(),
            matrix.grad.to_dense().flatten().nonzero()[:, 0].tolist(),
        )
        optimizer.step()
        flat.step()
        torch.testing.assert_close(matrix.flatten(), vector, rtol=0, atol=0)
    assert matrix.is_contiguous() != transposed


def test_entries_take_states_of_another_layout() -> None:
    """As after loading what a contiguous parameter left."""
    weights = [parameter(ROWS, 5), nn.Parameter(parameter(5, ROWS).detach().t())]
    with torch.no_grad():
        weights[1].copy_(weights[0])
    optimizers = [Adam([weight]) for weight in weights]
    weights[0].grad = entries_of(random_grad(weights[0], 0), 0)
    optimizers[0].step()
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    with torch.no_grad():
        weights[1].copy_(weights[0])
    for weight, optimizer in zip(weights, optimizers, strict=True):
        weight.grad = entries_of(random_grad(weight, 1), 1)
        optimizer.step()
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_entries_that_accumulate_are_added_up_and_clipped() -> None:
    ours, theirs = parameter(ROWS, 5), parameter(ROWS, 5)
    first, second = (entries_of(random_grad(ours, seed), seed) for seed in (0, 1))
    ours.grad, theirs.grad = first + second, (first + second).to_dense()
    torch.testing.assert_close(
        clip_grad_norm_([ours], 1.0), nn.utils.clip_grad_norm_([theirs], 1.0)
    )
    SGD([ours]).step()
    torch.optim.SGD([theirs]).step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("weight", "grad", "message"),
    [
        (torch.zeros(4, 3, 2), torch.ones(4, 3, 2).to_sparse(2), "2 sparse dimensions of 3"),
        (torch.zeros(4, 6)[:, ::2], torch.ones(4, 3).to_sparse(), "non-contiguous"),
        (torch.zeros(1).expand(2**16, 2**15), torch.sparse_coo_tensor(size=(2**16, 2**15)), "2.31"),
    ],
    ids=["3-d", "strided", "large"],
)
def test_entries_that_have_no_place_are_refused(weight: Tensor, grad: Tensor, message: str) -> None:
    weight = nn.Parameter(weight)
    weight.grad = grad
    with pytest.raises(RuntimeError, match=message):
        SGD([weight]).step()


# ---- states saved and loaded -------------------------------------------------------------------


def train(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], steps: range) -> None:
    """Odd weights have dense gradients, even ones sparse."""
    for step in steps:
        for i, weight in enumerate(weights):
            grad = random_grad(weight, 10 * step + i)
            rows = sorted({step % ROWS, 3 * step % ROWS, 7})
            weight.grad = grad if i % 2 else sparse(grad, rows)
        optimizer.step()


@EACH_OF_ALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("through_file", [False, True])
def test_training_goes_on_bit_for_bit_after_a_load(
    make: Make, options: dict[str, Any], dtype: torch.dtype, through_file: bool, tmp_path: Any
) -> None:
    shapes = [(ROWS, 5), (ROWS, 4), (ROWS,)]
    straight = [parameter(*shape, dtype=dtype) for shape in shapes]
    train(make(straight, **options), straight, range(8))

    weights = [parameter(*shape, dtype=dtype) for shape in shapes]
    first = make(weights, **options)
    train(first, weights, range(4))
    state = first.state_dict()
    if through_file:
        torch.save(state, tmp_path / "optimizer.pt")
        state = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    second = make(weights, **options)
    second.load_state_dict(copy.deepcopy(state))
    train(second, weights, range(4, 8))
    for ours, wanted in zip(weights, straight, strict=True):
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize(
    ("make", "reference"),
    [
        (SGD, torch.optim.SGD),
        (Adagrad, torch.optim.Adagrad),
        (Adam, torch.optim.Adam),
        (AdamW, torch.optim.AdamW),
    ],
)
def test_torchs_own_state_can_be_loaded(make: Make, reference: Make) -> None:
    options = {"momentum": 0.9} if make is SGD else {}
    straight, weight = parameter(ROWS, 5), parameter(ROWS, 5)
    wanted, first = reference([straight], lr=0.1, **options), reference([weight], lr=0.1, **options)
    for step in range(6):
        if step == 3:
            optimizer = make([weight], lr=0.1, **options)
            optimizer.load_state_dict(first.state_dict())
        straight.grad = random_grad(straight, step)
        wanted.step()
        weight.grad = sparse(straight.grad) if step >= 3 else straight.grad
        (optimizer if step >= 3 else first).step()
    torch.testing.assert_close(weight, straight, rtol=1e-10, atol=1e-12)


def steps(
    optimizer: torch.optim.Optimizer, weight: Tensor, grads: Iterable[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each gradient, and which elements its step has changed."""
    for grad in grads:
        before = weight.detach().clone()
        weight.grad = grad
        optimizer.step()
        assert torch.isfinite(weight).all()
        yield grad, weight != before


@EACH_OF_ALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_dense_step_may_come_before_a_sparse_one(
    make: Make, options: dict[str, Any], dtype: torch.dtype
) -> None:
    weight = parameter(ROWS, 5, dtype=dtype)
    optimizer = make([weight], **options)
    for _, changed in steps(
        optimizer, weight, (random_grad(weight, 0), sparse(random_grad(weight, 1)))
    ):
        assert changed.any(1).all()


@EACH_OF_ALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_kinds_of_gradients_may_take_turns(
    make: Make, options: dict[str, Any], dtype: torch.dtype
) -> None:
    """Dense ones meet states of rows, in float32 for 16 bits, and so do those of entries."""
    weight = parameter(ROWS, 5, dtype=dtype)
    optimizer = make([weight], **options)
    entries = torch.sparse_coo_tensor(
        torch.tensor([[0, 2], [1, 4]]), torch.ones(2, dtype=dtype), weight.shape
    )
    dense = [random_grad(weight, step) for step in range(3)]
    kinds = [kind for grad in dense for kind in (sparse(grad), grad, entries)]
    for grad, changed in steps(optimizer, weight, kinds):
        touched = changed[grad.to_dense() != 0]
        assert touched.float().mean() > (0.9 if dtype.itemsize > 2 else 0.5)


def test_a_dense_gradient_after_one_of_rows_keeps_one_state_a_row() -> None:
    weights = [parameter(ROWS, 5) for _ in range(2)]
    optimizers = [RowWiseAdam([weight]) for weight in weights]
    for step in range(3):
        grad = random_grad(weights[0], step)
        weights[0].grad, weights[1].grad = sparse(grad), grad if step else sparse(grad)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(*weights)
    assert optimizers[1].state[weights[1]]["exp_avg_sq"].shape == (ROWS,)


# ---- states in bfloat16 ------------------------------------------------------------------------

AVERAGES = ("exp_avg", "exp_avg_sq")
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "matrix": lambda t: t,
    "transposed": lambda t: t.t(),
    "vector": lambda t: t.flatten(),
    "scalar": lambda t: t[0, 0].clone(),
    "empty": lambda t: t[:0],
    "convolution": lambda t: t.reshape(5, 3, 2, 4),
    "channels_last": lambda t: t.reshape(5, 3, 2, 4).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("make", [Adam, AdamW])
def test_dense_gradients_of_any_layout_have_narrow_states(make: Make, layout: str) -> None:
    """The first step is that of wide states to rounding: what moves the weight is not rounded."""
    weights = [nn.Parameter(LAYOUTS[layout](parameter(ROWS, 4).detach()).clone()) for _ in range(2)]
    narrow = make(weights[:1], lr=0.1, weight_decay=0.1, **NARROW)
    wide = make(weights[1:], lr=0.1, weight_decay=0.1)
    for step in range(5):
        for weight in weights:
            grad = random_grad(weight, step)
            # Of another layout than the weight's, now and then.
            weight.grad = grad if step % 2 else torch.empty_like(weight).copy_(grad)
        narrow.step()
        wide.step()
        # A step is off by the .4 % at most that each state was rounded by, .8 % for m.
        bound = 1e-12 if step == 0 else 0.1 * step * 0.02
        torch.testing.assert_close(*weights, rtol=0, atol=bound)
    for name in AVERAGES:
        state = narrow.state[weights[0]][name]
        assert state.dtype == torch.bfloat16
        assert state.shape == weights[0].shape


def test_dense_gradients_are_those_of_all_rows_with_narrow_states() -> None:
    ours, theirs = parameter(ROWS, 5), parameter(ROWS, 5)
    a, b = Adam([ours], **NARROW), Adam([theirs], **NARROW)
    for step in range(4):
        ours.grad = random_grad(ours, step)
        theirs.grad = sparse(ours.grad)
        a.step()
        b.step()
    assert torch.equal(ours, theirs)
    for name in AVERAGES:
        assert torch.equal(a.state[ours][name], b.state[theirs][name])


def test_narrow_states_of_entries_and_of_a_row() -> None:
    matrix = parameter(ROWS, 5, dtype=torch.float32)
    optimizer = RowWiseAdam([matrix], **NARROW)
    for grad in (random_grad(matrix, 0), sparse(random_grad(matrix, 1), [2, 5])):
        matrix.grad = grad
        optimizer.step()
    state = optimizer.state[matrix]
    assert [state[name].dtype for name in AVERAGES] == [torch.bfloat16, torch.float32]
    assert state["exp_avg_sq"].shape == (ROWS,)

    optimizer = Adam([matrix], **NARROW)
    matrix.grad = entries_of(random_grad(matrix, 0), 0)
    optimizer.step()
    touched = matrix.grad.to_dense() != 0
    for name in AVERAGES:
        assert optimizer.state[matrix][name].dtype == torch.bfloat16
        assert torch.equal(optimizer.state[matrix][name] != 0, touched)


def test_parameters_of_one_optimizer_round_by_draws_of_their_own() -> None:
    weights = [parameter(ROWS, 50, dtype=torch.float32) for _ in range(2)]
    optimizer = Adam(weights, **NARROW)
    for weight in weights:
        weight.grad = sparse(random_grad(weight, 0))
    optimizer.step()
    assert torch.equal(*weights)
    assert not torch.equal(*(optimizer.state[weight]["exp_avg"] for weight in weights))


def test_state_dtype_is_an_option_of_groups_that_checkpoints_keep() -> None:
    weights = [parameter(ROWS, 5, dtype=torch.float32) for _ in range(2)]
    groups: list[dict[str, Any]] = [{"params": weights[:1], **NARROW}, {"params": weights[1:]}]
    optimizer = Adam(groups)
    dtypes = [torch.bfloat16, torch.float32]
    for make_grad in (sparse, Tensor.clone):
        for weight in weights:
            weight.grad = make_grad(random_grad(weight, 0))
        optimizer.step()
        assert [optimizer.state[weight]["exp_avg"].dtype for weight in weights] == dtypes
    restored = Adam([{"params": [weight]} for weight in weights])
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    restored.step()
    assert [restored.state[weight]["exp_avg"].dtype for weight in weights] == dtypes
    added = Adam(weights[:1], **NARROW)
    added.add_param_group({"params": weights[1:]})
    assert added.param_groups[1]["state_dtype"] == torch.bfloat16
    assert copy.deepcopy(added).param_groups[1]["state_dtype"] == torch.bfloat16


@pytest.mark.parametrize("reference", [torch.optim.Adam, Adam])
def test_float32_states_are_rounded_when_they_are_asked_to_be(reference: Make) -> None:
    """Those of torch's checkpoint, without the option; those of ours by the group's option."""
    weight = parameter(ROWS, 5, dtype=torch.float32)
    first = reference([weight])
    weight.grad = random_grad(weight, 0)
    first.step()
    optimizer = Adam([weight], **NARROW)
    optimizer.load_state_dict(first.state_dict())
    assert optimizer.state[weight]["exp_avg"].dtype == torch.float32
    for group in optimizer.param_groups:
        assert group["state_dtype"] == (None if reference is Adam else torch.bfloat16)
        group["state_dtype"] = torch.bfloat16
    optimizer.step()
    assert optimizer.state[weight]["exp_avg"].dtype == torch.bfloat16
    assert optimizer.state[weight]["step"] == 2


@pytest.mark.parametrize("make", [Adam, AdamW, RowWiseAdam])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, "bfloat16"])
def test_other_dtypes_of_states_are_refused(make: Make, dtype: Any) -> None:
    message = f"state_dtype: got {dtype}, wanted torch.bfloat16 or None"
    with pytest.raises(ValueError, match=message):
        make([parameter(2)], state_dtype=dtype)
    with pytest.raises(ValueError, match=message):
        make([{"params": [parameter(2)], "state_dtype": dtype}])


def _fit(optimizer: torch.optim.Optimizer, weight: nn.Parameter, seed: int) -> float:
    """Squared distance to the rows wanted, after steps on some rows with noisy gradients."""
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.randn(weight.shape, generator=torch.Generator().manual_seed(99))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, 1500)
    for _ in range(1500):
        rows = torch.randperm(len(weight), generator=generator)[:20].sort().values
        noise = torch.randn(weight.shape, generator=generator)
        # Gradients a thousand times larger in one column than in another.
        scale = torch.logspace(-2, 1, weight.shape[1])
        weight.grad = sparse((weight.detach() - wanted + noise) * scale, rows.tolist())
        optimizer.step()
        schedule.step()
    return float((weight.detach() - wanted).square().mean())


def test_training_with_narrow_states_gets_where_it_gets_with_wide_ones() -> None:
    """The noise of the states changes the length of a step by 2 %, and so the distance that noisy
    gradients leave by about as much; seeds of the gradients' noise, which are the same for both,
    change it by a few percent. Training with half the last rates would be off by far more.
    """
    ratios = []
    for seed in range(3):
        distances = []
        for options in ({}, NARROW):
            weight = nn.Parameter(torch.zeros(40, 16))
            distances.append(_fit(Adam([weight], lr=0.03, **options), weight, seed))
        assert distances[0] < 0.1  # of 1, where it starts
        ratios.append(distances[1] / distances[0])
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.05)


def test_narrow_second_moments_come_down_where_rounding_to_the_nearest_would_not() -> None:
    """Gradients that become smaller: steps must become as much larger again, by and by."""
    weight = nn.Parameter(torch.zeros(10, 100))
    narrow = Adam([weight], lr=1e-3, **NARROW)
    exact, nearest = torch.zeros(()), torch.zeros((), dtype=torch.bfloat16)
    for step in range(1000):
        size = 1.0 if step < 300 else 0.1
        weight.grad = torch.full_like(weight, size)
        narrow.step()
        exact = 0.999 * exact + 0.001 * size**2
        nearest = (0.999 * nearest.float() + 0.001 * size**2).bfloat16()
    mean = float(narrow.state[weight]["exp_avg_sq"].double().mean())
    # An element is off by less than 5 %, independently: the mean of 1000 by .16 %.
    assert mean == pytest.approx(float(exact), rel=5 * 0.05 / 1000**0.5)
    assert nearest > 1.5 * exact


# ---- as an optimizer of torch ------------------------------------------------------------------


@EACH_OF_ALL
def test_groups_scheduler_and_closure(make: Make, options: dict[str, Any]) -> None:
    fast, slow, still = parameter(ROWS, 5), parameter(ROWS, 5), parameter(ROWS, 5)
    optimizer = make(
        [{"params": [fast]}, {"params": [slow], "lr": 0.01}, {"params": [still], "lr": 0.0}],
        **options,
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.0)
    before = fast.detach().clone()

    def closure() -> float:
        for weight in (fast, slow, still):
            weight.grad = sparse(random_grad(weight, 0))
        return 1.5

    assert optimizer.step(closure) == 1.5
    torch.testing.assert_close((slow - before) * 10, fast - before)
    assert torch.equal(still, before)
    scheduler.step()
    moved = fast.detach().clone()
    optimizer.step(closure)  # every rate is 0 now
    assert torch.equal(fast, moved)


def test_a_tensor_as_rate() -> None:
    a, b = parameter(ROWS, 5), parameter(ROWS, 5)
    for weight, lr in ((a, torch.tensor(0.1)), (b, 0.1)):
        weight.grad = sparse(random_grad(weight, 0))
        SGD([weight], lr=lr).step()
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "reference"),
    [(SGD, torch.optim.SGD), (Adagrad, torch.optim.Adagrad), (RowWiseAdam, torch.optim.Adam)],
)
def test_step_hooks_run_once(make: Make, reference: Make) -> None:
    reference([parameter(2)])  # from now on torch's class has hooks in its own step
    weight = parameter(ROWS, 5)
    optimizer = make([weight])
    calls = []
    optimizer.register_step_pre_hook(lambda *arguments: calls.append("before"))
    optimizer.register_step_post_hook(lambda *arguments: calls.append("after"))
    weight.grad = random_grad(weight, 0)
    optimizer.step()
    assert calls == ["before", "after"]


@EACH_OF_OURS
def test_a_failing_step_keeps_the_gradients(make: Make, options: dict[str, Any]) -> None:
    weight, other = parameter(ROWS, 5), parameter(ROWS, 5, 2)
    optimizer = make([weight, other], **options)
    weight.grad = sparse(random_grad(weight, 0))
    other.grad = random_grad(other, 0).to_sparse(2)
    with pytest.raises(RuntimeError, match="sparse dimensions"):
        optimizer.step()
    assert weight.grad is not None
    assert other.grad is not None


def test_an_optimizers_step_makes_evaluation_rehash() -> None:
    layer = make_layer(sparse_grad=True)
    x = inputs(8)
    layer.eval()(x)
    layer.train()(x).sum().backward()
    SGD(layer.parameters(), lr=5.0).step()
    layer.eval()
    seen = layer.active(x)
    layer.rehash()
    assert torch.equal(layer.active(x), seen)


# ---- clipping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_is_torchs_on_dense_gradients(max_norm: float) -> None:
    layer = make_layer(dtype=torch.float64, sparse_grad=True)
    dense = nn.Linear(D, 3).double()
    loss = layer(dense.weight @ inputs(D, dtype=torch.float64)).square().sum()
    (loss + dense.bias.sum()).backward()
    parameters = [*layer.parameters(), *dense.parameters(), parameter(3)]
    twins = [nn.Parameter(p.detach().clone()) for p in parameters]
    for twin, p in zip(twins, parameters, strict=True):
        twin.grad = None if p.grad is None else p.grad.to_dense().clone()
    norm = clip_grad_norm_(iter(parameters), max_norm)
    wanted = torch.nn.utils.clip_grad_norm_(twins, max_norm)
    torch.testing.assert_close(norm, wanted)
    for twin, p in zip(twins, parameters, strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p.grad.to_dense(), twin.grad)


def test_clipping_adds_up_rows_that_stand_twice() -> None:
    weight = parameter(3, 1)
    weight.grad = torch.sparse_coo_tensor(
        torch.tensor([[1, 1]]), torch.tensor([[3.0], [1.0]]).double(), (3, 1)
    )
    assert clip_grad_norm_(weight, 1.0) == 4
    torch.testing.assert_close(weight.grad.to_dense()[1], torch.ones(1).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm_type", [1.0, 3.0, float("inf")])
def test_clipping_by_another_norm_is_torchs(norm_type: float) -> None:
    ours, theirs = parameter(ROWS, 5), parameter(ROWS, 5)
    theirs.grad = random_grad(theirs, 0)
    ours.grad = sparse(theirs.grad)
    norm = clip_grad_norm_(ours, 0.5, norm_type)
    wanted = torch.nn.utils.clip_grad_norm_(theirs, 0.5, norm_type)
    torch.testing.assert_close(norm, wanted)
    torch.testing.assert_close(ours.grad.to_dense(), theirs.grad)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_can_be_refused(value: float) -> None:
    weight = parameter(ROWS, 5)
    grad = random_grad(weight, 0)
    grad[3, 2] = value
    weight.grad = sparse(grad)
    with pytest.raises(RuntimeError, match="non-finite"):
        clip_grad_norm_(weight, 1.0, error_if_nonfinite=True)
    torch.testing.assert_close(weight.grad.to_dense(), grad, equal_nan=True)
    assert not clip_grad_norm_(weight, 1.0).isfinite()


def test_adamw_keeps_its_decay_when_it_goes_on_from_adam() -> None:
    weight = parameter(ROWS, 5)
    optimizer = AdamW([weight])
    optimizer.load_state_dict(Adam([weight], weight_decay=0.3).state_dict())
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True
    assert optimizer.param_groups[0]["weight_decay"] == 0.3


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("nan")])
def test_clipping_to_nothing_is_refused(max_norm: float) -> None:
    with pytest.raises(ValueError, match=r"max_norm: got .*, wanted above 0"):
        clip_grad_norm_([parameter(2)], max_norm)


def test_clipping_without_gradients_and_of_mixed_dtypes() -> None:
    assert clip_grad_norm_([parameter(2)], 1.0) == 0
    mixed = [parameter(4, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64)]
    for p in mixed:
        p.grad = torch.ones_like(p)
    torch.testing.assert_close(float(clip_grad_norm_(mixed, 1.0)), 12**0.5, rtol=1e-2, atol=0)
    assert [p.grad.dtype for p in mixed] == [p.dtype for p in mixed]


# ---- with GradScaler ---------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", [False, True])
@pytest.mark.parametrize(
    ("make", "options"),
    [(SGD, {}), (Adagrad, {}), (Adam, {}), (Adam, {"fused": True}), (torch.optim.SGD, {})],
)
def test_grad_scaler(make: Make, options: dict[str, Any], overflow: bool) -> None:
    layer, twin = (make_layer(sparse_grad=True, dtype=torch.float32) for _ in range(2))
    optimizer, wanted = make(layer.parameters(), **options), make(twin.parameters(), **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scale = float("inf") if overflow else 1.0
    scaler.scale(layer(inputs(4)).square().sum() * scale).backward()
    scaler.step(optimizer)
    scaler.update()
    if not overflow:
        twin(inputs(4)).square().sum().backward()
        wanted.step()
    for ours, theirs in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert scaler.get_scale() == (512 if overflow else 1024)
    assert torch.equal(layer.weight, make_layer().weight) == overflow


# ---- what torch's optimizers have besides --------------------------------------------------------


@pytest.mark.parametrize("make", [SGD, Adagrad, Adam, RowWiseAdam, RowWiseAdagrad])
def test_a_group_may_maximize(make: Make) -> None:
    ways = []
    for maximize in (False, True):
        weight = parameter(ROWS, 3)
        optimizer = make([{"params": [weight], "maximize": maximize}], lr=0.1)
        grad = torch.full((1, 3), -1.0 if maximize else 1.0, dtype=weight.dtype)
        weight.grad = torch.sparse_coo_tensor([[2]], grad, weight.shape)
        optimizer.step()
        ways.append(weight.detach())
    assert torch.equal(*ways)
    assert not torch.equal(ways[0], parameter(ROWS, 3))


@pytest.mark.parametrize(
    ("make", "name", "value"), [(Adam, "amsgrad", True), (SGD, "dampening", 0.5)]
)
def test_what_row_kernels_do_not_know_is_refused_and_changes_nothing(
    make: Make, name: str, value: object
) -> None:
    weights = [parameter(ROWS, 3) for _ in range(2)]
    optimizer = make([{"params": weights[:1]}, {"params": weights[1:], name: value}], lr=0.1)
    for weight in weights:
        grad = torch.ones(1, 3, dtype=weight.dtype)
        weight.grad = torch.sparse_coo_tensor([[2]], grad, weight.shape)
    with pytest.raises(ValueError, match=rf"hashdl.optim.{make.__name__}: {name}: got {value}"):
        optimizer.step()
    assert all(torch.equal(weight, parameter(ROWS, 3)) for weight in weights)


def test_the_count_of_steps_does_not_depend_on_the_default_dtype() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        weight = parameter(ROWS, 3)
        optimizer = Adam([weight], lr=0.1)
        for _ in range(2):
            grad = torch.ones(1, 3, dtype=weight.dtype)
            weight.grad = torch.sparse_coo_tensor([[2]], grad, weight.shape)
            optimizer.step()
            state = optimizer.state_dict()
            state["state"][0]["step"] = state["state"][0]["step"].double()
            optimizer.load_state_dict(state)
    finally:
        torch.set_default_dtype(torch.float32)
    assert float(optimizer.state[weight]["step"]) == 2
