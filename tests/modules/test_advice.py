"""advise: verdicts from given times, and a model that is left as it was. No test reads a clock."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from module_helpers import CONFIG, D, N, inputs, make_layer
from torch import Tensor, nn
from torch.nn.utils import prune

import hashdl
from hashdl import HashConfig, HashLinear, HashSoftmaxWithLoss, advise
from hashdl.tuning import Advice, LayerAdvice, timing
from hashdl.tuning import advice as tuning

Times = dict[str, float]
FAKE = {"dense": 10.0, "hashed": 2.0, "drop_in": 4.0, "rehash": 50.0}


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    """What every step seems to take; each is run once for real. A test may change it."""
    fake = dict(FAKE)

    def measure(forms: Mapping[str, Callable[[], object]], seconds: float) -> Times:
        for step in forms.values():
            step()
        return {name: fake[name] for name in forms}

    monkeypatch.setattr(tuning, "measure_ms", measure)
    return fake


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 40), nn.ReLU(), nn.Linear(40, N))


class Classifier(nn.Module):
    """A body and a HashSoftmaxWithLoss: inputs and targets by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(D, 16)
        self.head = HashSoftmaxWithLoss(16, N, config=CONFIG.replace(shared=10))

    def forward(self, *, x: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = self.head(self.body(x).relu(), target).loss
        return loss


def by_name(advice: Advice) -> dict[str, LayerAdvice]:
    return {layer.name: layer for layer in advice.layers}


def only(advice: Advice) -> LayerAdvice:
    (layer,) = advice.layers
    return layer


# ---- what is reported --------------------------------------------------------------------------


def test_sizes_times_and_names(times: Times) -> None:
    advice = advise(mlp(), inputs(3, 2), config=CONFIG)
    first, last = advice.layers
    assert (first.name, first.kind, first.rows, first.features) == ("0", "Linear", 40, D)
    assert (last.name, last.rows, last.features, last.samples, last.calls) == ("2", N, 40, 6, 1)
    assert (last.dense_ms, last.hashed_ms, last.drop_in_ms) == (10, 2 + 50 / 50, 4 + 50 / 50)
    assert (last.dense_inference_ms, last.hashed_inference_ms) == (10, 2)
    assert last.ratio == pytest.approx(10 / 3)
    assert advice.to_hash == advice.to_convert == ("0", "2")


def test_the_share_of_a_rehash_follows_the_schedule(times: Times) -> None:
    layer = only(advise(nn.Linear(D, N), inputs(3), config=CONFIG.replace(rehash_every=5)))
    assert layer.hashed_ms == 2 + 50 / 5


@pytest.mark.parametrize(
    ("dense", "hashed", "drop_in", "verdict", "converted", "note"),
    [
        (10.0, 4.0, 4.0, "hash", True, "convert it, and train with hashdl.optim.Adam"),
        (10.0, 1.0, 4.0, "hash", True, "2x as fast; 5x by HashSoftmaxWithLoss or sparse_forward"),
        (10.0, 2.0, 9.0, "hash", False, "HashSoftmaxWithLoss or sparse_forward alone"),
        (10.0, 2.0, 30.0, "hash", False, "it is 0.32x as fast"),
        (10.0, 8.0, 8.0, "either", False, "no gain"),
        (10.0, 10.5, 12.0, "either", False, "no gain"),
        (10.0, 20.0, 30.0, "dense", False, "leave it dense"),
    ],
)
def test_verdicts(
    times: Times,
    dense: float,
    hashed: float,
    drop_in: float,
    verdict: str,
    converted: bool,
    note: str,
) -> None:
    times |= {"dense": dense, "hashed": hashed, "drop_in": drop_in}
    advice = advise(nn.Linear(D, N), inputs(3), config=CONFIG)
    layer = only(advice)
    assert layer.verdict == verdict
    assert note in layer.note
    assert advice.to_hash == (("",) if verdict == "hash" else ())
    assert advice.to_convert == (("",) if converted else ())


@pytest.mark.parametrize(
    ("dense", "hashed", "verdict", "note"),
    [(10.0, 2.0, "hash", "keep it hashed"), (10.0, 20.0, "dense", "revert it")],
)
def test_verdicts_of_hashed_layers(
    times: Times, dense: float, hashed: float, verdict: str, note: str
) -> None:
    times |= {"dense": dense, "hashed": hashed}
    advice = advise(make_layer(), inputs(3))
    assert (only(advice).kind, only(advice).verdict) == ("HashLinear", verdict)
    assert note in only(advice).note
    assert advice.to_convert == ()


def test_hashing_that_pays_in_inference_alone(times: Times, monkeypatch: Any) -> None:
    rounds = iter([{"dense": 1.0, "hashed": 9.0, "drop_in": 9.0}, {"rehash": 0.0}])
    answers = itertools.chain(rounds, [{"dense": 9.0, "hashed": 1.0}])
    monkeypatch.setattr(tuning, "measure_ms", lambda forms, seconds: next(answers))
    layer = only(advise(nn.Linear(D, N), inputs(3), config=CONFIG))
    assert layer.verdict == "dense"
    assert "in inference hashed outputs are 9x as fast" in layer.note


def test_frozen_layers_are_judged_by_inference(times: Times, monkeypatch: Any) -> None:
    answers = iter(
        [
            {"dense": 1.0, "hashed": 9.0, "drop_in": 9.0},
            {"rehash": 0.0},
            {"dense": 9.0, "hashed": 1.0},
        ]
    )
    monkeypatch.setattr(tuning, "measure_ms", lambda forms, seconds: next(answers))
    layer = only(advise(nn.Linear(D, N).requires_grad_(False), inputs(3), config=CONFIG))
    assert layer.verdict == "hash"
    assert "frozen" in layer.note


def test_the_table(times: Times) -> None:
    text = str(advise(mlp(), inputs(3), config=CONFIG))
    header, first, last = text.splitlines()[:3]
    columns = ["layer", "rows", "features", "samples", "dense", "hashed", "drop-in", "ratio"]
    assert header.split() == [*columns, "infer:", "dense", "hashed", "verdict"]
    assert first.split() == ["0", "40", "12", "3", "10", "3", "5", "3.33", "10", "2", "hash"]
    assert last.split()[:2] == ["2", "200"]
    assert "filter_fn=lambda module, name: name in {'0', '2'}" in text
    assert "hashdl.HashSoftmaxWithLoss.from_linear(layer, config)" in text


@pytest.mark.parametrize("config", [None, CONFIG])
def test_the_printed_call_converts_those_layers(times: Times, config: HashConfig | None) -> None:
    model = mlp()
    text = str(advise(model, inputs(3), config=config))
    call = text[text.index("hashdl.convert(") :]
    converted = eval(call, {"hashdl": hashdl, "model": model})
    assert [type(layer).__name__ for layer in converted][::2] == ["HashLinear", "HashLinear"]
    assert converted[2].config == (config or HashConfig()).replace(sparse_grad=True)


def test_advice_is_frozen_and_without_layers_still_prints() -> None:
    advice = advise(nn.Sequential(nn.ReLU()), inputs(3))
    assert advice == Advice(())
    assert str(advice) == "no linear layer to give advice on"
    with pytest.raises(dataclasses.FrozenInstanceError):
        advice.layers = ()  # type: ignore[misc]


# ---- which layers, and what they are given -----------------------------------------------------


def test_a_shared_layer_is_timed_once(times: Times) -> None:
    shared = nn.Linear(D, D)
    config = CONFIG.replace(active=3)
    advice = advise(nn.Sequential(shared, nn.ReLU(), shared), inputs(3), config=config)
    assert (only(advice).name, only(advice).calls) == ("0", 2)
    assert "called 2 times, figures are of one call" in only(advice).note


def test_layers_never_called_are_reported(times: Times) -> None:
    model = nn.Sequential(nn.Linear(D, N), nn.ReLU())
    model.unused = nn.Linear(4, N)
    model.forward = lambda x: nn.Linear.forward(model[0], x)  # not even through __call__
    for layer in advise(model, inputs(3), config=CONFIG).layers:
        assert layer.verdict == "not measured"
        assert (layer.samples, layer.calls, layer.dense_ms, layer.ratio) == (0, 0, None, None)
        assert layer.note == "never called with these inputs"


def test_other_linears_are_left_out(times: Times) -> None:
    model = nn.Sequential(prune.random_unstructured(nn.Linear(D, D), "weight", 0.5))
    model.append(nn.utils.parametrizations.weight_norm(nn.Linear(D, D)))
    model.append(nn.Linear(D, N))
    assert [layer.name for layer in advise(model, inputs(3), config=CONFIG).layers] == ["2"]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(D, 2)
        self.out = nn.Linear(D, N)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(self.attention(x, x, x)[0])
        return result


def test_the_projection_of_attention_is_left_out(times: Times) -> None:
    assert [layer.name for layer in advise(Attention(), inputs(3, 2)).layers] == ["out"]


def test_layers_that_a_fast_path_would_pass_over(times: Times) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 64, batch_first=True).eval()
    model = nn.TransformerEncoder(layer, 2).eval()
    advice = advise(model, torch.randn(2, 5, 16), config=CONFIG)
    assert [(each.calls, each.samples) for each in advice.layers] == [(1, 10)] * 4
    assert layer.activation_relu_or_gelu == 1


def test_filter_sees_what_is_advised_on(times: Times) -> None:
    seen = {}

    def filter_fn(module: nn.Module, fqn: str) -> bool:
        seen[fqn] = module
        return fqn == "head.linear"

    model = Classifier()
    run = {"x": inputs(4), "target": torch.arange(4)}
    assert only(advise(model, run, filter_fn=filter_fn)).name == "head.linear"
    assert seen == {"body": model.body, "head.linear": model.head.linear}


@pytest.mark.parametrize(
    "run",
    [(inputs(3), torch.arange(3)), {"input": inputs(3), "target": torch.arange(3)}],
    ids=["tuple", "dict"],
)
def test_a_head_by_itself(times: Times, run: Any) -> None:
    head = HashSoftmaxWithLoss(D, N, config=CONFIG)
    layer = only(advise(head, run))
    assert (layer.name, layer.kind, layer.samples) == ("linear", "HashSoftmaxWithLoss", 3)
    assert layer.drop_in_ms is None
    assert layer.verdict == "hash"
    assert layer.note == "keep it hashed"


@pytest.mark.parametrize(
    "target",
    [
        torch.arange(3),
        torch.tensor([[1, 2], [3, -1], [-1, -1]]),
        torch.eye(3, N).to_sparse_csr(),
    ],
    ids=["one", "padded", "csr"],
)
def test_heads_take_every_kind_of_target(times: Times, target: Tensor) -> None:
    layers = by_name(advise(Classifier(), {"x": inputs(3), "target": target}))
    assert layers["head.linear"].verdict == "hash"
    assert layers["body"].verdict == "hash"


def test_a_head_given_a_single_sample(times: Times) -> None:
    head = HashSoftmaxWithLoss(D, N, config=CONFIG)
    assert only(advise(head, (inputs(), torch.tensor(3)))).samples == 1


def test_a_head_not_worth_it(times: Times) -> None:
    times["hashed"] = 30.0
    layer = only(advise(HashSoftmaxWithLoss(D, N, config=CONFIG), (inputs(3), torch.arange(3))))
    assert layer.verdict == "dense"
    assert "auto=True" in layer.note


def test_a_head_whose_loss_is_not_computed(times: Times) -> None:
    model = HashSoftmaxWithLoss(D, N, config=CONFIG)
    model.forward = model.predict  # type: ignore[method-assign]
    outer = nn.ModuleDict({"head": model})
    outer.forward = lambda x: model.predict(x)  # type: ignore[assignment]
    assert "computes its loss" in only(advise(outer, inputs(3))).note


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = make_layer()

    def forward(self, x: Tensor) -> Tensor:
        return self.wide.sparse_forward(x)[1]


def test_a_layer_used_by_its_sparse_outputs(times: Times) -> None:
    layer = only(advise(Sparse(), inputs(3)))
    assert (layer.calls, layer.samples, layer.verdict) == (1, 3, "hash")


def test_a_hashed_layer_is_timed_as_it_is_configured(
    times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = []
    kept = tuning._Trial.__init__

    def init(self: Any, place: Any, config: HashConfig) -> None:
        configs.append(config)
        kept(self, place, config)

    monkeypatch.setattr(tuning._Trial, "__init__", init)
    model = nn.Sequential(make_layer(config=CONFIG.replace(auto=True, active=7)))
    model.append(nn.Linear(N, N))
    advise(model, inputs(3))
    advise(model, inputs(3), config=CONFIG)
    own = CONFIG.replace(active=7, sparse_grad=True)
    given = CONFIG.replace(sparse_grad=True)
    assert configs == [own, HashConfig(sparse_grad=True), given, given]


def test_a_layer_whose_every_row_is_active(times: Times) -> None:
    layer = only(advise(nn.Linear(D, N), inputs(3), config=HashConfig(active=1.0)))
    assert (layer.verdict, layer.dense_ms) == ("dense", None)
    assert "every row" in layer.note


class Embedded(nn.Module):
    def __init__(self, max_norm: float | None = None) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(50, D, max_norm=max_norm)
        self.out = nn.Linear(D, N)

    def forward(self, words: Tensor) -> Tensor:
        result: Tensor = self.out(self.embedding(words))
        return result


@pytest.mark.parametrize("max_norm", [None, 0.1])
def test_models_of_words(times: Times, max_norm: float | None) -> None:
    model = Embedded(max_norm)
    before = copy.deepcopy(model.state_dict())
    assert only(advise(model, torch.randint(50, (4, 3)), config=CONFIG)).samples == 4
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(times: Times, dtype: torch.dtype) -> None:
    advice = advise(mlp().to(dtype), inputs(3, dtype=dtype), config=CONFIG)
    assert [layer.verdict for layer in advice.layers] == ["hash", "hash"]


def test_under_autocast_and_without_gradients(times: Times) -> None:
    with torch.autocast("cpu"), torch.no_grad():
        assert advise(mlp(), inputs(3), config=CONFIG).to_hash == ("0", "2")
    with torch.inference_mode():
        assert advise(mlp(), inputs(3), config=CONFIG).to_hash == ("0", "2")


def test_steps_take_all_batches_in_turn(times: Times, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_MOST_CALLS", 3)
    seen: list[list[int]] = []

    def measure(forms: Mapping[str, Callable[[], object]], seconds: float) -> Times:
        if "drop_in" in forms:
            steps = [forms["dense"] for _ in range(4)]
            kept = nn.Linear.forward

            def forward(self: nn.Linear, input: Tensor) -> Tensor:
                seen[-1].append(input.shape[0])
                return kept(self, input)

            seen.append([])
            with monkeypatch.context() as patch:
                patch.setattr(nn.Linear, "forward", forward)
                for step in steps:
                    step()
        return {name: FAKE[name] for name in forms}

    monkeypatch.setattr(tuning, "measure_ms", measure)
    batches = [(inputs(2),), inputs(4), inputs(100)]
    layer = only(advise(nn.Linear(D, N), inputs(3), config=CONFIG, batches=batches))
    assert seen == [[3, 2, 4, 3]]
    assert (layer.samples, layer.calls) == (3, 4)


def test_inputs_written_over_in_place_are_kept_as_they_were(
    times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    init = tuning._Trial.__init__

    def watch(self: Any, place: Any, config: HashConfig) -> None:
        init(self, place, config)
        kept.append(self.calls[0].input)

    monkeypatch.setattr(tuning._Trial, "__init__", watch)

    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(D, N)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x)
            x.zero_()
            return y

    advise(Overwrites(), inputs(3), config=CONFIG)
    assert torch.equal(kept[0], inputs(3))


# ---- the model is left as it was ---------------------------------------------------------------


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


@pytest.mark.parametrize("training", [False, True])
def test_nothing_of_the_model_changes(times: Times, training: bool) -> None:
    hashed = make_layer()
    model = nn.Sequential(hashed, nn.BatchNorm1d(N), nn.Dropout(), nn.Linear(N, 300))
    model(inputs(4)).sum().backward()
    model.train(training)[1].eval()
    ids = {name: (id(t), t.data_ptr(), t._version) for name, t in tensors_of(model)}
    values = {name: t.detach().clone() for name, t in tensors_of(model)}
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}

    advise(model, inputs(4), config=CONFIG)

    assert {name: (id(t), t.data_ptr(), t._version) for name, t in tensors_of(model)} == ids
    assert all(torch.equal(t, values[name]) for name, t in tensors_of(model))
    assert all(torch.equal(p.grad, grads[name]) for name, p in model.named_parameters())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_parameters_are_not_copied_to_run_the_model() -> None:
    model = mlp()
    twin = tuning._twin(model)
    assert all(a is b for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert all(a is not b for a, b in zip(model.modules(), twin.modules(), strict=True))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_models_with_the_old_weight_norm(times: Times) -> None:
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(D, D)), nn.Linear(D, N))
    assert only(advise(model, inputs(3), config=CONFIG)).verdict == "hash"


# ---- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (("mlp", inputs(1)), {}, "model: got str, wanted an nn.Module"),
        ((mlp(), [inputs(1)]), {}, "example_inputs: got list, wanted a tensor, a tuple of"),
        ((mlp(), inputs(1)), {"batches": [inputs(1), 3]}, r"batches\[1\]: got int"),
        ((mlp(), inputs(1)), {"config": {"active": 3}}, "config: got dict, wanted a HashConfig"),
    ],
)
def test_wrong_types(arguments: Any, keywords: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"hashdl.advise: {message}"):
        advise(*arguments, **keywords)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_no_time_at_all(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"hashdl.advise: seconds: got .*, wanted more than 0"):
        advise(mlp(), inputs(1), seconds=seconds)


def test_errors_of_the_model_come_through() -> None:
    model, x = mlp(), torch.randn(3, D + 1)
    random = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        advise(model, x)
    assert torch.equal(torch.get_rng_state(), random)


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo: object) -> None:
        raise TypeError("holds a socket")


def test_a_model_that_cannot_be_copied() -> None:
    with pytest.raises(RuntimeError, match="Sequential cannot be copied: holds a socket"):
        advise(nn.Sequential(nn.Linear(D, D), Uncopied(D, D)), inputs(3))


def test_a_layer_too_large_for_memory(times: Times, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "bytes_available", lambda device: 1000.0)
    advice = advise(nn.Linear(D, N), inputs(3), config=CONFIG)
    assert only(advice).verdict == "not measured"
    assert only(advice).note.startswith("too large to be copied: that takes about 0.0 GB")
    assert "not measured" in str(advice)
    assert advice.to_hash == ()


@pytest.mark.parametrize("error", [RuntimeError("out of memory\nat"), MemoryError()])
def test_a_layer_that_runs_out_of_memory(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def measure(forms: object, seconds: float) -> Times:
        raise error

    monkeypatch.setattr(tuning, "measure_ms", measure)
    layer = only(advise(nn.Linear(D, N), inputs(3), config=CONFIG))
    assert (layer.verdict, layer.note) == ("not measured", "could not be timed: out of memory")


def test_layers_on_the_meta_device(times: Times) -> None:
    layer = only(advise(nn.Linear(D, N, device="meta"), inputs(3).to("meta"), config=CONFIG))
    assert layer.note == "its weight is on the meta device"


def test_a_call_without_samples(times: Times) -> None:
    assert "without any samples" in only(advise(nn.Linear(D, N), inputs(0))).note


# ---- rounds ------------------------------------------------------------------------------------


class Clock:
    """Time passes only where a step lets it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(timing, "_clock", fake)
    return fake


def test_rounds_take_turns_and_the_median_counts(clock: Clock) -> None:
    order = []

    def step(name: str, durations: Iterator[float]) -> Callable[[], None]:
        def run() -> None:
            order.append(name)
            clock.now += next(durations)

        return run

    forms = {
        "a": step("a", iter([9.0, 0.1, 0.5, 0.2, 0.3])),
        "b": step("b", itertools.repeat(0.1)),
    }
    measured = timing.measure_ms(forms, seconds=1.0)
    # One warm-up, since it took so long; three rounds of 0.2, 0.6 and 0.3 seconds make more than 1.
    assert order == ["a", "b"] * 4
    assert measured == {"a": pytest.approx(200), "b": pytest.approx(100)}


def test_steps_longer_than_the_time_there_is_are_timed_once(clock: Clock) -> None:
    calls = []

    def step() -> None:
        calls.append(1)
        clock.now += 60

    assert timing.measure_ms({"slow": step}, seconds=0.1) == {"slow": 60_000}
    assert len(calls) == 2


def test_progress_is_shown_when_it_is_long(
    times: Times, capsys: pytest.CaptureFixture[str]
) -> None:
    advise(mlp(), inputs(3), config=CONFIG)
    assert capsys.readouterr().err == ""
    advise(mlp(), inputs(3), config=CONFIG, seconds=60)
    assert "Timing layers" in capsys.readouterr().err


def test_real_times_are_positive() -> None:
    advice = advise(Classifier(), {"x": inputs(3), "target": torch.arange(3)}, seconds=1e-6)
    for layer in advice.layers:
        assert layer.dense_ms is not None
        assert layer.dense_ms > 0
        assert layer.verdict in ("hash", "dense", "either")


def test_copies_are_trained_not_layers(times: Times) -> None:
    model = nn.Sequential(HashLinear(D, N, config=CONFIG))
    steps = int(model[0].tables.step)
    advise(model, inputs(3))
    assert int(model[0].tables.step) == steps
    assert model[0].weight.grad is None
