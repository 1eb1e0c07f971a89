"""convert and revert: parameters, ties, hooks and shared modules survive."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from module_helpers import CONFIG, inputs
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import hashdl
from hashdl import HashConfig, HashLinear, HashSoftmaxWithLoss, convert, revert
from hashdl.nn import HashFeedForward, HashMLP

EXACT = HashConfig(active=1.0)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 200, bias=False))


def types_of(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules() if isinstance(module, nn.Linear)]


# ---- there and back ----------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_an_mlp_there_and_back(training: bool) -> None:
    model = mlp().train(training)
    parameters = dict(model.named_parameters())
    state = copy.deepcopy(model.state_dict())
    x = inputs(4)
    wanted = model(x)

    assert convert(model, CONFIG) is model
    assert types_of(model) == ["HashLinear", "HashLinear"]
    assert all(module.training == training for module in model.modules())
    assert model[0].config == CONFIG
    assert (model(x) != wanted).any()
    hashed = dict(model.named_parameters())
    assert hashed.keys() == parameters.keys()
    assert all(hashed[name] is parameters[name] for name in parameters)
    assert list(model.state_dict()) == list(state)
    model.load_state_dict(state, strict=True)

    assert revert(model) is model
    assert types_of(model) == ["Linear", "Linear"]
    assert all(module.training == training for module in model.modules())
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert torch.equal(model(x), wanted)
    assert repr(model) == repr(mlp())


def test_exact_layers_change_no_output() -> None:
    model = mlp()
    wanted = model(inputs(4))
    assert torch.equal(convert(model, EXACT)(inputs(4)), wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_and_frozen_parameters_stay(dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    model[0].requires_grad_(False)
    convert(model, CONFIG)
    model(inputs(4, dtype=dtype)).sum().backward()
    assert model[2].weight.grad.dtype == dtype
    assert model[0].weight.grad is None
    assert model[0].bias.grad is None


def test_a_copy_leaves_the_original() -> None:
    model = mlp()
    parameters = list(model.parameters())
    converted = convert(model, CONFIG, inplace=False)
    assert types_of(model) == ["Linear", "Linear"]
    assert types_of(converted) == ["HashLinear", "HashLinear"]
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(a is not b for a, b in zip(converted.parameters(), parameters, strict=True))


@pytest.mark.parametrize("inplace", [False, True])
def test_the_model_may_itself_be_a_linear(inplace: bool) -> None:
    linear = nn.Linear(12, 100)
    layer = convert(linear, CONFIG, inplace=inplace)
    assert type(layer) is HashLinear
    assert (layer.weight is linear.weight) == inplace
    back = revert(layer)
    assert type(back) is nn.Linear
    assert back.weight is layer.weight
    assert torch.equal(back(inputs(3)), linear(inputs(3)))


def test_an_optimizer_made_before_keeps_training_the_model() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    convert(model, CONFIG)
    before = [p.detach().clone() for p in model.parameters()]
    model(inputs(4)).square().sum().backward()
    optimizer.step()
    assert all((p != b).any() for p, b in zip(model.parameters(), before, strict=True))


# ---- shared and tied ---------------------------------------------------------------------------


def test_a_shared_module_stays_one() -> None:
    shared = nn.Linear(12, 12)
    model = nn.ModuleDict(
        {"a": shared, "b": nn.Sequential(shared, nn.Tanh()), "c": nn.ModuleList([shared])}
    )
    convert(model, CONFIG.replace(active=3))
    assert type(model["a"]) is HashLinear
    assert model["a"] is model["b"][0]
    assert model["a"] is model["c"][0]
    assert len(list(model.parameters())) == 2
    revert(model)
    assert type(model["a"]) is nn.Linear
    assert model["a"] is model["b"][0]
    assert model["a"] is model["c"][0]


def test_tied_weights_stay_tied() -> None:
    model = nn.ModuleDict({"emb": nn.Embedding(200, 12), "out": nn.Linear(12, 200, bias=False)})
    model["out"].weight = model["emb"].weight
    convert(model, CONFIG)
    assert model["out"].weight is model["emb"].weight
    assert len(list(model.parameters())) == 1
    revert(model)
    assert model["out"].weight is model["emb"].weight


def test_nested_containers() -> None:
    model = nn.Sequential(
        OrderedDict(
            one=nn.ModuleList([nn.Linear(12, 30), nn.ModuleDict({"deep": nn.Linear(12, 40)})]),
            two=nn.Linear(12, 50),
        )
    )
    convert(model, CONFIG)
    assert types_of(model) == ["HashLinear"] * 3
    assert model.one[1]["deep"].out_features == 40


# ---- what is chosen ----------------------------------------------------------------------------


def test_filter_sees_each_linear_and_its_name_once() -> None:
    model = nn.Sequential(mlp(), mlp())
    linears = {name: m for name, m in model.named_modules() if type(m) is nn.Linear}
    seen = {}

    def filter_fn(module: nn.Module, fqn: str) -> bool:
        assert fqn not in seen
        seen[fqn] = module
        return fqn.startswith("1.") and module.out_features > 100

    convert(model, CONFIG, filter_fn=filter_fn)
    assert seen == linears
    assert types_of(model) == ["Linear", "Linear", "Linear", "HashLinear"]


@pytest.mark.parametrize(
    ("model", "filter_fn", "why"),
    [
        (nn.ReLU(), None, "ReLU has no nn.Linear in it"),
        (mlp(), lambda module, fqn: False, "no nn.Linear that filter_fn accepts"),
        (
            HashLinear(12, 100),
            None,
            "HashLinear has no nn.Linear in it, but layers that are hashed",
        ),
    ],
)
def test_a_warning_when_nothing_matched(
    model: nn.Module, filter_fn: Callable[[nn.Module, str], bool] | None, why: str
) -> None:
    with pytest.warns(UserWarning, match=why) as caught:
        convert(model, filter_fn=filter_fn)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("mlp",), "model: got str"), ((mlp(), {"active": 3}), "config: got dict")],
)
def test_wrong_arguments(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(TypeError, match=f"hashdl.convert: {message}"):
        convert(*arguments)


def test_a_filter_that_is_no_function_is_refused() -> None:
    model = mlp()
    with pytest.raises(TypeError, match=r"hashdl.convert: filter_fn: got str, wanted a function"):
        convert(model, filter_fn="0")  # type: ignore[arg-type]
    assert not any(isinstance(module, HashLinear) for module in model.modules())


@pytest.mark.filterwarnings("ignore:hashdl.convert. nothing was swapped")
@pytest.mark.parametrize(
    "block", [HashMLP(16, [300], 10), HashMLP(16, [300], 10, gated=True), HashFeedForward(16, 300)]
)
def test_what_uses_its_layers_sparsely_keeps_them(block: nn.Module) -> None:
    x = torch.randn(3, 16)
    block.eval()
    before = block(x)
    for change in (convert, revert):
        assert change(block) is block
        torch.testing.assert_close(block(x), before)


def test_what_is_no_model_cannot_be_reverted() -> None:
    with pytest.raises(TypeError, match=r"hashdl.revert: model: got dict, wanted an nn.Module"):
        revert({})  # type: ignore[arg-type]


class Scaled(nn.Linear):
    """Computes something else than nn.Linear."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def pruned() -> nn.Linear:
    return prune.random_unstructured(nn.Linear(12, 100), "weight", 0.5)


def weight_normed() -> nn.Linear:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(12, 100))


def with_extra_parameter() -> nn.Linear:
    linear = nn.Linear(12, 100)
    linear.scale = nn.Parameter(torch.ones(1))
    return linear


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scaled(12, 100),
        lambda: HashLinear(12, 100, config=EXACT),
        lambda: parametrizations.weight_norm(nn.Linear(12, 100)),
        lambda: parametrizations.spectral_norm(nn.Linear(12, 100)),
        weight_normed,
        pruned,
        with_extra_parameter,
    ],
    ids=["subclass", "hashed", "weight_norm", "spectral_norm", "old_norm", "pruned", "extra"],
)
def test_other_linears_are_left_alone(make: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(12, 12), make()).eval()
    odd, wanted = model[1], model(inputs(3))
    convert(model, EXACT)
    assert type(model[0]) is HashLinear
    assert model[1] is odd
    assert torch.equal(model(inputs(3)), wanted)
    assert len(model.state_dict()) == len({*model.state_dict()})


def test_a_hashed_layer_can_be_parametrized() -> None:
    layer = parametrizations.weight_norm(HashLinear(12, 100, config=CONFIG))
    twin = copy.deepcopy(layer)
    x = inputs(4)
    with torch.no_grad():
        twin.parametrizations.weight.original0.mul_(2)
    rows, values = layer.sparse_forward(x)
    values.sum().backward()
    dense = nn.functional.linear(x, layer.weight, layer.bias)
    wanted = dense.gather(1, rows.clamp_min(0).long()).masked_fill(rows < 0, 0)
    torch.testing.assert_close(values, wanted)
    assert layer.parametrizations.weight.original0.grad is not None
    assert not torch.equal(twin.eval()(x), layer.eval()(x))


def test_a_head_in_a_model_survives() -> None:
    head = HashSoftmaxWithLoss(12, 300, config=CONFIG)
    model = nn.ModuleDict({"body": nn.Linear(12, 12), "head": head, "tied": head.linear})
    convert(model, CONFIG.replace(active=2))
    revert(model)
    assert type(model["body"]) is nn.Linear
    assert type(head.linear) is HashLinear
    assert model["tied"] is head.linear
    head(model["body"](inputs(2)), torch.tensor([1, 2])).loss.backward()
    assert head.weight.grad is not None


# ---- hooks -------------------------------------------------------------------------------------


def test_hooks_survive_there_and_back() -> None:
    model, calls = mlp(), []
    layer = model[2]
    layer.register_forward_pre_hook(lambda *a: calls.append("pre"))
    layer.register_forward_pre_hook(lambda m, a, kw: calls.append("pre kw"), with_kwargs=True)
    removed = layer.register_forward_hook(lambda *a: calls.append("removed"))
    layer.register_forward_hook(lambda *a: calls.append("post"), always_call=True)
    layer.register_full_backward_pre_hook(lambda *a: calls.append("backward pre"))
    layer.register_full_backward_hook(lambda *a: calls.append("backward"))
    for change in (lambda: convert(model, CONFIG), lambda: revert(model)):
        change()
        removed.remove()
        calls.clear()
        model(inputs(2)).sum().backward()
        assert calls == ["pre", "pre kw", "post", "backward pre", "backward"]


# ---- attention and transformers ----------------------------------------------------------------


def test_the_projection_of_attention_is_left_alone() -> None:
    model = nn.Sequential(OrderedDict(attention=nn.MultiheadAttention(16, 2), out=nn.Linear(16, 9)))
    convert(model, CONFIG)
    assert type(model.out) is HashLinear
    assert not isinstance(model.attention.out_proj, HashLinear)
    x = torch.randn(3, 1, 16)
    model.attention(x, x, x)[0].sum().backward()
    assert model.attention.out_proj.weight.grad is not None


def encoder(layers: int) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 64, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, layers) if layers else layer


def encoded(model: nn.Module, masked: bool, grad: bool) -> Tensor:
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[1, 3:] = masked
    with torch.set_grad_enabled(grad):
        y = model(x, src_key_padding_mask=mask if masked else None)
    return y.masked_fill(mask[..., None], 0)


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_encoders_use_their_hashed_layers_with_and_without_gradients(
    layers: int, masked: bool, training: bool
) -> None:
    model = encoder(layers)
    dense = encoded(model.eval(), masked, grad=False)
    convert(model, CONFIG.replace(active=0.3))
    model.train(training)
    calls = []
    for module in model.modules():
        if isinstance(module, HashLinear):
            kept = module.sparse_forward
            module.sparse_forward = lambda x, kept=kept: calls.append(1) or kept(x)
    without = encoded(model, masked, grad=False)
    assert len(calls) == 2 * max(1, layers)
    assert not torch.allclose(without, dense, atol=1e-3)
    if not training:
        torch.testing.assert_close(encoded(model, masked, grad=True), without)
    encoded(model, masked, grad=True).sum().backward()


@pytest.mark.parametrize("layers", [0, 2])
def test_reverted_encoders_are_back_on_the_fast_path(layers: int) -> None:
    model = encoder(layers).eval()
    plain = {name: set(vars(m)) for name, m in model.named_modules()}
    dense = encoded(model, True, grad=False)
    revert(convert(model, CONFIG))
    assert {name: set(vars(m)) for name, m in model.named_modules()} == plain
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            assert module.activation_relu_or_gelu == 1
        if isinstance(module, nn.TransformerEncoder):
            assert module.use_nested_tensor
    assert torch.equal(encoded(model, True, grad=False), dense)


def test_converted_models_can_be_copied_and_pickled() -> None:
    model = convert(nn.Sequential(encoder(1), nn.Linear(16, 200)), CONFIG)
    twin = copy.deepcopy(model).eval()
    x = torch.randn(1, 4, 16)
    assert torch.equal(twin(x), model.eval()(x))
    assert hashdl.revert(twin) is twin


def test_weights_that_cannot_be_hashed_are_left_alone() -> None:
    complex_layer = nn.Linear(8, 300, dtype=torch.complex64)
    model = convert(nn.Sequential(complex_layer, nn.Linear(8, 300)))
    assert model[0] is complex_layer
    assert isinstance(model[1], HashLinear)
