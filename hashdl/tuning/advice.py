"""Is hashing worth it? Each linear layer of a model is timed, dense and hashed."""

from __future__ import annotations

import copy
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashdl import optim
from hashdl.config import HashConfig
from hashdl.conversion import _FAST_PATHS, _is_plain
from hashdl.costs import dense_work, hashed_work
from hashdl.memory import bytes_available
from hashdl.nn import HashLinear, HashSoftmaxWithLoss
from hashdl.progress import track
from hashdl.tuning.text import figure, in_code, table
from hashdl.tuning.timing import Step, measure_ms

# Within so much of each other, dense and hashed are called alike: such differences come and go.
_ALIKE = 1.2
# Inputs of a layer that its steps take in turn; a layer called more often keeps the first ones.
_MOST_CALLS = 8
# Looks at the inputs before anything is timed, at most.
_MOST_SETTLING = 32
# Of the seconds a layer, the share for training steps; the rest is for inference.
_TRAINING_SHARE = 0.75
# Expected seconds from which progress is shown.
_LONG = 5.0
# No rehash falls due while steps are timed: it is timed by itself, and its share added.
_NEVER = 10**9

_UNMEASURED = "not measured"


# ---- what comes out ----------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerAdvice:
    """What :func:`advise` found out about one layer. Milliseconds are None where not measured.

    Attributes:
        name: of the layer that holds the weight, as in ``model.named_modules()``.
        kind: ``"Linear"``, ``"HashLinear"``, or ``"HashSoftmaxWithLoss"`` for the layer inside one,
            which is timed with its loss.
        rows: N.
        features: d.
        samples: inputs a call, their mean over the calls.
        calls: how often the example inputs called it.
        dense_ms: a training step dense: forward, backward and fused Adam.
        hashed_ms: a training step hashed: :meth:`HashLinear.sparse_forward` (or the loss of
            :class:`HashSoftmaxWithLoss`), backward, :class:`hashdl.optim.Adam` and the step's share
            of a rehash of all rows.
        drop_in_ms: the same with :meth:`HashLinear.forward`, as after :func:`hashdl.convert`: its
            (B, N) outputs and their gradients are dense, and cost O(B N). None inside a
            :class:`HashSoftmaxWithLoss`, which makes none.
        dense_inference_ms: outputs without gradients (of a HashSoftmaxWithLoss: the best class).
        hashed_inference_ms: of the active rows (of a HashSoftmaxWithLoss: the best class that the
            tables find).
        verdict: ``"hash"`` or ``"dense"``, ``"either"`` within 20 %; ``"not measured"``. Training
            steps are compared; of a frozen layer, inference.
        note: what to do, and why.
    """

    name: str
    kind: str
    rows: int
    features: int
    samples: int = 0
    calls: int = 0
    dense_ms: float | None = None
    hashed_ms: float | None = None
    drop_in_ms: float | None = None
    dense_inference_ms: float | None = None
    hashed_inference_ms: float | None = None
    verdict: str = _UNMEASURED
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times as long a dense training step takes as a hashed one."""
        return _ratio(self.dense_ms, self.hashed_ms)


# Labels that tables do not find would have no gradient.
_NOT_CONVERTED = (
    "if it is the output layer of a classifier, do not convert it to train it:",
    "hashdl.HashSoftmaxWithLoss.from_linear(layer, config) has the same parameters",
)


@dataclass(frozen=True)
class Advice:
    """What :func:`advise` returns; ``str(advice)`` is a table.

    Attributes:
        layers: one :class:`LayerAdvice` for each layer, in the model's order.
        config: how layers were hashed; None: hashed ones as they are, others by default.
    """

    layers: tuple[LayerAdvice, ...]
    config: HashConfig | None = None

    @property
    def to_hash(self) -> tuple[str, ...]:
        """Names of the layers whose verdict is ``"hash"``."""
        return tuple(layer.name for layer in self.layers if layer.verdict == "hash")

    @property
    def to_convert(self) -> tuple[str, ...]:
        """Those of :attr:`to_hash` that :func:`hashdl.convert` by itself makes faster.

        The others are nn.Linear whose dense outputs cost too much, or are hashed already.
        """
        return tuple(layer.name for layer in self.layers if _convertible(layer))

    def __str__(self) -> str:
        if not self.layers:
            return "no linear layer to give advice on"
        lines = table([_HEADINGS, *map(_cells, self.layers)], _LEFT)
        lines += ["", "milliseconds a call; ratio: dense / hashed"]
        lines += [f"{layer.name or '(model)'}: {layer.note}" for layer in self.layers]
        if self.to_convert:
            names = "{" + ", ".join(map(repr, self.to_convert)) + "}"
            config = in_code((self.config or HashConfig()).replace(sparse_grad=True))
            lines += ["", *_NOT_CONVERTED, "", "hashdl.convert(", f"    model, {config},"]
            lines += [f"    filter_fn=lambda module, name: name in {names},", ")"]
        return "\n".join(lines)


_HEADINGS = (
    *("layer", "rows", "features", "samples", "dense", "hashed", "drop-in", "ratio"),
    *("infer: dense", "hashed", "verdict"),
)
_LEFT = (0, len(_HEADINGS) - 1)  # columns of words


def _cells(layer: LayerAdvice) -> tuple[str, ...]:
    times = (layer.dense_ms, layer.hashed_ms, layer.drop_in_ms, layer.ratio)
    inference = (layer.dense_inference_ms, layer.hashed_inference_ms)
    sizes = (f"{size:,}" for size in (layer.rows, layer.features, layer.samples))
    return (
        *(layer.name or "(model)", *sizes, *map(figure, times)),
        *(*map(figure, inference), layer.verdict),
    )


# ---- advise ------------------------------------------------------------------------------------


def advise(
    model: nn.Module,
    example_inputs: Tensor | tuple[Any, ...] | dict[str, Any],
    *,
    config: HashConfig | None = None,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    batches: Iterable[Tensor | tuple[Any, ...] | dict[str, Any]] = (),
    seconds: float = 1.0,
) -> Advice:
    """Time each linear layer of a model, dense and hashed, and say which are worth hashing.

    The model is run once on the example inputs, to see what each layer is given. Then copies of
    each layer, dense and hashed, take turns on that: training steps, and inference. Parameters,
    gradients, buffers, mode and torch's random state stay as they are: what runs is a copy that
    shares the parameters. It runs in the model's own mode: give one in training mode, so that its
    inputs are those of training.

    Looked at are nn.Linear layers that :func:`hashdl.convert` would swap, :class:`HashLinear`, and
    the layer inside each :class:`HashSoftmaxWithLoss` whose loss the model computes; a layer in
    two places once.

    One batch met again and again flatters the hashed layer, since always the same rows are active
    and near: give more of them by ``batches``. The share of rehashes is that of all rows, every
    ``config.rehash_interval`` steps: the most that the schedule asks for. Weights of another layer
    than the one to be trained (a new one's, say) fill the tables in another way.

    Args:
        model: the model.
        example_inputs: what it is called with: a tensor, a tuple of positional arguments, or a dict
            of keywords. As many samples as in training: dense and hashed grow differently with
            them.
        config: how to hash. ``sparse_grad`` is always on, ``auto`` off. Default: a hashed layer's
            own; ``HashConfig()`` for others.
        filter_fn: ``filter_fn(module, fqn) -> bool``: which layers to look at. Default: all.
        batches: more example inputs; steps take them in turn (8 calls of a layer at most).
        seconds: for each layer, about: of one so large that a step takes longer, a few steps are
            timed. Default: 1.0.

    Returns:
        An :class:`Advice`: print it.

    Raises:
        TypeError: an argument has another type.
        ValueError: ``seconds`` is not positive, or ``config`` does not fit a layer.
        RuntimeError: the model cannot be copied.

    Examples:
        >>> model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4000))
        >>> advice = advise(model, torch.randn(8, 16), seconds=0.01)
        >>> [layer.name for layer in advice.layers]
        ['0', '2']
        >>> advice.layers[0].verdict in ("hash", "dense", "either")
        True
        >>> advice.layers[1].rows, advice.layers[1].samples
        (4000, 8)
    """
    runs = [example_inputs, *batches]
    _check(model, runs, config, seconds)
    places = _find(model, filter_fn)
    if not places:
        return Advice((), config)
    expected = len(places) * seconds
    with _undisturbed(model):
        _record(model, runs, places)
        layers = tuple(
            _advise_layer(place, config, seconds)
            for place in track(places, "Timing layers", enabled=expected > _LONG)
        )
    return Advice(layers, config)


def _check(
    model: nn.Module, runs: Sequence[object], config: HashConfig | None, seconds: float
) -> None:
    def refuse(name: str, value: object, wanted: str) -> TypeError:
        return TypeError(f"hashdl.advise: {name}: got {type(value).__name__}, wanted {wanted}")

    if not isinstance(model, nn.Module):
        raise refuse("model", model, "an nn.Module")
    for number, run in enumerate(runs):
        name = "example_inputs" if number == 0 else f"batches[{number - 1}]"
        if not isinstance(run, (Tensor, tuple, dict)):
            wanted = "a tensor, a tuple of positional arguments or a dict of keywords"
            raise refuse(name, run, wanted)
    if config is not None and not isinstance(config, HashConfig):
        raise refuse("config", config, "a HashConfig")
    if not seconds > 0:
        raise ValueError(f"hashdl.advise: seconds: got {seconds}, wanted more than 0")


# ---- what the layers are given -----------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """One call of a layer: inputs, and the targets of a HashSoftmaxWithLoss."""

    input: Tensor
    target: Tensor | None


@dataclass
class _Place:
    """A layer to look at, where it stands, and what it was given."""

    name: str
    caller: str  # name of the module whose calls are recorded: the layer's, or the softmax's
    kind: str
    linear: nn.Linear
    calls: list[_Call] = field(default_factory=list)
    n_calls: int = 0

    def keep(self, input: Tensor, target: Tensor | None) -> None:
        """Record a call. A copy: models write over activations in place."""
        self.n_calls += 1
        if len(self.calls) < _MOST_CALLS:
            self.calls.append(_Call(input.detach().clone(), target))


def _find(model: nn.Module, filter_fn: Callable[[nn.Module, str], bool] | None) -> list[_Place]:
    """Each distinct layer of which advice can be given."""
    found = list(model.named_modules(remove_duplicate=True))
    heads = {id(head.linear) for _, head in found if isinstance(head, HashSoftmaxWithLoss)}
    places = []
    for name, module in found:
        if isinstance(module, HashSoftmaxWithLoss):
            inner = f"{name}.linear" if name else "linear"
            places.append(_Place(inner, name, "HashSoftmaxWithLoss", module.linear))
        elif isinstance(module, nn.Linear) and id(module) not in heads and _is_advised(module):
            places.append(_Place(name, name, type(module).__name__, module))
    return [place for place in places if filter_fn is None or filter_fn(place.linear, place.name)]


def _is_advised(module: nn.Linear) -> bool:
    # A subclass is neither: attention's out_proj, which it never calls, among them.
    return type(module) is HashLinear or _is_plain(module)


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Keep torch's random state, and let gradients be computed wherever the caller stands."""
    tensors = (*model.parameters(), *model.buffers())
    gpus = {tensor.device.index for tensor in tensors if tensor.device.type == "cuda"}
    with (
        torch.random.fork_rng(sorted(gpus)),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield


def _record(model: nn.Module, runs: Sequence[Any], places: Sequence[_Place]) -> None:
    """Run a copy of the model, and keep what each layer is given."""
    twin = _twin(model)
    modules = dict(twin.named_modules())
    for module in modules.values():
        for kind, switch in _FAST_PATHS:  # they read the weights of layers that they do not call
            if isinstance(module, kind):
                setattr(module, switch, False)
    for place in places:
        _watch(modules[place.caller], place)
    with torch.no_grad():
        for run in runs:
            if isinstance(run, dict):
                twin(**run)
            else:
                twin(*(run if isinstance(run, tuple) else (run,)))


def _twin(model: nn.Module) -> nn.Module:
    """A copy that shares the parameters: whatever else running a model changes is the copy's."""
    shared: dict[int, Any] = {}
    for module in model.modules():
        tensors = (*module._parameters.values(), *vars(module).values())
        shared |= {
            id(tensor): tensor
            for tensor in tensors
            if isinstance(tensor, nn.Parameter)
            # Of the old weight_norm; deepcopy refuses such.
            or (isinstance(tensor, Tensor) and not tensor.is_leaf)
        }
    for module in model.modules():
        if getattr(module, "max_norm", None) is not None:  # an embedding that scales its rows
            for tensor in module._parameters.values():
                shared.pop(id(tensor), None)
    try:
        return copy.deepcopy(model, shared)
    except Exception as error:
        raise RuntimeError(
            f"hashdl.advise: model: {type(model).__name__} cannot be copied: {error}"
        ) from error


def _watch(module: nn.Module, place: _Place) -> None:
    """Let a module of the copy record its calls."""
    if isinstance(module, HashLinear) and module.tables is not None:
        flat = module._flat  # forward, sparse_forward, active and topk all begin with it

        def kept(input: Tensor) -> Tensor:
            place.keep(input, None)
            return flat(input)

        module._flat = kept  # type: ignore[method-assign]
        return

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(("input", "target"), args, strict=False)) | kwargs
        place.keep(given["input"], given.get("target"))

    module.register_forward_pre_hook(hook, with_kwargs=True)


# ---- timing ------------------------------------------------------------------------------------


class _Trial:
    """Copies of a layer, and what a step of each of its forms does.

    Args:
        place: the layer, and its calls.
        config: how to hash the copy.
    """

    def __init__(self, place: _Place, config: HashConfig) -> None:
        self.config = config
        self.calls = [self._prepared(call, place.linear) for call in place.calls]
        self.dense = _copy_of(place.linear)
        hashed = _copy_of(place.linear)
        self.hashed = HashLinear.from_linear(hashed, config.replace(rehash_every=_NEVER)).train()
        # Rates of 0: the same work, and weights stay what fills the tables.
        self._dense_adam = torch.optim.Adam(self.dense.parameters(), lr=0.0, fused=True)
        self._hashed_adam = optim.Adam(self.hashed.parameters(), lr=0.0)
        self._ones: dict[torch.Size, Tensor] = {}

    @staticmethod
    def _prepared(call: _Call, linear: nn.Linear) -> _Call:
        """A call with inputs (B, d) that want a gradient, as those of a hidden layer do."""
        x = call.input.reshape(-1, linear.in_features).to(linear.weight.dtype)
        target = call.target
        if target is not None and target.dim() == 0:
            target = target.unsqueeze(0)
        return _Call(x.requires_grad_(), target)

    # What the forms compute: overridden where a loss belongs to the layer.

    def dense_output(self, call: _Call) -> Tensor:
        """Of all rows."""
        return self.dense(call.input)  # type: ignore[no-any-return]

    def hashed_output(self, call: _Call) -> Tensor:
        """Of the active rows."""
        return self.hashed.sparse_forward(call.input)[1]

    def drop_in_output(self, call: _Call) -> Tensor:
        """Of the active rows, among zeros."""
        return self.hashed(call.input)  # type: ignore[no-any-return]

    def dense_answer(self, call: _Call) -> Tensor:
        """What is wanted in inference."""
        return self.dense_output(call)

    def hashed_answer(self, call: _Call) -> Tensor:
        """What is wanted in inference."""
        return self.hashed_output(call)

    # Steps.

    def training(self) -> dict[str, Step]:
        """A training step of each form."""
        return {
            "dense": self._training_step(self.dense_output, self._dense_adam),
            "hashed": self._training_step(self.hashed_output, self._hashed_adam),
            "drop_in": self._training_step(self.drop_in_output, self._hashed_adam),
        }

    def rehash(self) -> dict[str, Step]:
        """A rehash of all rows."""
        return {"rehash": self._synchronized(self.hashed.rehash)}

    def inference(self) -> dict[str, Step]:
        """Inference of each form."""
        return {
            "dense": self._inference_step(self.dense_answer),
            "hashed": self._inference_step(self.hashed_answer),
        }

    def times(self, seconds: float) -> dict[str, Any]:
        """The milliseconds of a :class:`LayerAdvice`."""
        self._settle()
        training = measure_ms(self.training(), _TRAINING_SHARE * seconds)
        inference_seconds = (1 - _TRAINING_SHARE) / 2 * seconds
        interval = self.config.rehash_interval(self.hashed.out_features)
        rehash = measure_ms(self.rehash(), inference_seconds)["rehash"] / interval
        self.hashed.eval()
        with torch.no_grad():
            inference = measure_ms(self.inference(), inference_seconds)
        drop_in = training.get("drop_in")
        return {
            "dense_ms": training["dense"],
            "hashed_ms": training["hashed"] + rehash,
            "drop_in_ms": None if drop_in is None else drop_in + rehash,
            "dense_inference_ms": inference["dense"],
            "hashed_inference_ms": inference["hashed"],
        }

    def _settle(self) -> None:
        """Show the tables as many inputs as balancing waits for, in evaluation, which skips none.

        Else their planes would be made in the middle of what is timed.
        """
        tables = self.hashed.tables
        assert tables is not None
        self.hashed.eval()
        for call in itertools.islice(itertools.cycle(self.calls), _MOST_SETTLING):
            if tables.settled:
                break
            self.hashed.active(call.input)
        self.hashed.train()

    def _training_step(
        self, output: Callable[[_Call], Tensor], optimizer: torch.optim.Optimizer
    ) -> Step:
        calls = itertools.cycle(self.calls)

        def step() -> None:
            call = next(calls)
            optimizer.zero_grad(set_to_none=True)
            call.input.grad = None
            y = output(call)
            y.backward(self._ones_like(y))
            optimizer.step()

        return self._synchronized(step)

    def _inference_step(self, answer: Callable[[_Call], Tensor]) -> Step:
        calls = itertools.cycle(self.calls)
        return self._synchronized(lambda: answer(next(calls)))

    def _ones_like(self, y: Tensor) -> Tensor:
        """A gradient that is made once: what makes it in a model is no part of the layer."""
        if y.shape not in self._ones:
            self._ones[y.shape] = torch.ones_like(y)
        return self._ones[y.shape]

    def _synchronized(self, step: Step) -> Step:
        device = self.dense.weight.device
        if device.type != "cuda":
            return step

        def synchronized() -> None:
            step()
            torch.cuda.synchronize(device)

        return synchronized


class _SoftmaxTrial(_Trial):
    """As :class:`_Trial`, of a layer inside a HashSoftmaxWithLoss: with its loss."""

    def __init__(self, place: _Place, config: HashConfig) -> None:
        super().__init__(place, config)
        self.softmax = _softmax_around(self.hashed)
        exact = HashLinear.from_linear(self.dense, HashConfig(active=1.0))
        self.exact = _softmax_around(exact)

    def dense_output(self, call: _Call) -> Tensor:
        """The loss over all classes, by torch where there is one label a sample."""
        assert call.target is not None
        if call.target.layout == torch.strided and call.target.dim() == 1:
            return F.cross_entropy(self.dense(call.input), call.target.long())
        return self.exact(call.input, call.target).loss  # type: ignore[no-any-return]

    def hashed_output(self, call: _Call) -> Tensor:
        """The loss over active classes."""
        return self.softmax(call.input, call.target).loss  # type: ignore[no-any-return]

    def dense_answer(self, call: _Call) -> Tensor:
        """The best class."""
        return self.dense(call.input).argmax(-1)  # type: ignore[no-any-return]

    def hashed_answer(self, call: _Call) -> Tensor:
        """The best class that the tables find."""
        return self.softmax.topk(call.input, 1)[1]

    def training(self) -> dict[str, Step]:
        """Without the drop-in form: there are no dense outputs."""
        steps = super().training()
        del steps["drop_in"]
        return steps


def _softmax_around(linear: HashLinear) -> HashSoftmaxWithLoss:
    """A HashSoftmaxWithLoss that holds this very layer, in training mode."""
    softmax = HashSoftmaxWithLoss(linear.in_features, 1, bias=False, device="meta")
    softmax.linear = linear
    return softmax


def _copy_of(linear: nn.Linear) -> nn.Linear:
    """An nn.Linear with parameters of its own."""
    twin = nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
    twin.weight = nn.Parameter(linear.weight.detach().clone())
    if linear.bias is not None:
        twin.bias = nn.Parameter(linear.bias.detach().clone())
    return twin


# ---- verdicts ----------------------------------------------------------------------------------


def _advise_layer(place: _Place, config: HashConfig | None, seconds: float) -> LayerAdvice:
    linear = place.linear
    samples = [call.input.numel() // linear.in_features for call in place.calls]
    advice = LayerAdvice(
        *(place.name, place.kind, linear.out_features, linear.in_features),
        samples=round(statistics.mean(samples)) if samples else 0,
        calls=place.n_calls,
    )
    chosen = _config_of(linear, config)
    if linear.out_features <= chosen.sizes(linear.out_features).A:
        note = f"active={chosen.active!r} is every row: nothing to hash"
        return replace(advice, verdict="dense", note=note)
    obstacle = _obstacle(place, advice.samples, chosen)
    if obstacle is not None:
        return replace(advice, note=obstacle)
    trial = _SoftmaxTrial if place.kind == "HashSoftmaxWithLoss" else _Trial
    try:
        times = trial(place, chosen).times(seconds)
    except (RuntimeError, MemoryError) as error:  # torch's out-of-memory errors among them
        reason = str(error).partition("\n")[0] or "out of memory"
        return replace(advice, note=f"could not be timed: {reason}")
    return _judged(replace(advice, **times), frozen=not linear.weight.requires_grad)


def _config_of(linear: nn.Linear, config: HashConfig | None) -> HashConfig:
    if config is None:
        config = linear.config if isinstance(linear, HashLinear) else HashConfig()
    return config.replace(sparse_grad=True, auto=False)


def _obstacle(place: _Place, samples: int, config: HashConfig) -> str | None:
    """Why a layer cannot be timed; None: it can."""
    if place.n_calls == 0 and place.kind == "HashSoftmaxWithLoss":
        return "never called: give inputs with which the model computes its loss"
    if place.n_calls == 0:
        return "never called with these inputs"
    if samples == 0:
        return "called without any samples"
    weight = place.linear.weight
    if weight.is_meta:
        return "its weight is on the meta device"
    needed, free = _bytes_needed(place.linear, samples, config), bytes_available(weight.device)
    if free is not None and needed > free:
        N, d = weight.shape
        ratio = dense_work(N, d) / hashed_work(config, N, d)
        return (
            f"too large to be copied: that takes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} "
            f"GB are free; counted in multiplications, dense / hashed is {ratio:.2g}"
        )
    return None


def _bytes_needed(linear: nn.Linear, samples: int, config: HashConfig) -> float:
    """About what timing a layer takes beside the layer, at its peak."""
    N, d = linear.out_features, linear.in_features
    size = linear.weight.element_size()
    dense = 4.0 * size * N * d  # weight, gradient, two states
    hashed = (2.0 * size + 2.0 * max(size, 4)) * N * d  # the same; states of 16-bit rows have 32
    tables = 4.0 * 4 * N * config.tables  # codes and rows, and new ones while a rehash makes them
    outputs = 4.0 * size * N * samples  # dense and drop-in, and their gradients
    return dense + hashed + tables + outputs


def _ratio(dense: float | None, hashed: float | None) -> float | None:
    return None if dense is None or not hashed else dense / hashed


def _verdict(ratio: float | None) -> str:
    """From how many times as long dense takes as hashed."""
    if ratio is None:
        return _UNMEASURED
    if ratio > _ALIKE:
        return "hash"
    return "dense" if ratio < 1 / _ALIKE else "either"


def _judged(advice: LayerAdvice, *, frozen: bool) -> LayerAdvice:
    """With a verdict and what to do about it."""
    inference = _ratio(advice.dense_inference_ms, advice.hashed_inference_ms)
    verdict = _verdict(inference if frozen else advice.ratio)
    notes = [_todo(replace(advice, verdict=verdict))]
    if frozen:
        notes.append("frozen, so judged by inference")
    elif verdict != "hash" and _verdict(inference) == "hash":
        notes.append(f"in inference hashed outputs are {inference:.2g}x as fast")
    if advice.calls > 1:
        notes.append(f"called {advice.calls} times, figures are of one call")
    return replace(advice, verdict=verdict, note="; ".join(notes))


def _convertible(advice: LayerAdvice) -> bool:
    """Whether a layer is worth hashing even as a drop-in, with dense outputs."""
    drop_in = _verdict(_ratio(advice.dense_ms, advice.drop_in_ms))
    return advice.kind == "Linear" and advice.verdict == "hash" and drop_in == "hash"


def _todo(advice: LayerAdvice) -> str:
    """What to do with a layer that has its verdict."""
    if advice.verdict == "either":
        return "no gain to speak of: leave it as it is"
    if advice.verdict == "dense" and advice.kind == "HashSoftmaxWithLoss":
        return "active=1.0 or auto=True makes it exact, and cheaper"
    if advice.verdict == "dense":
        return "leave it dense" if advice.kind == "Linear" else "revert it"
    return _to_hash(advice, _ratio(advice.dense_ms, advice.drop_in_ms), advice.ratio or 0.0)


def _to_hash(advice: LayerAdvice, drop_in: float | None, sparse: float) -> str:
    """What to do with a layer worth hashing, by how many times as fast each form is."""
    hashed = advice.kind != "Linear"
    keep = "keep it hashed" if hashed else "convert it, and train with hashdl.optim.Adam"
    if drop_in is None:
        return keep
    other = "sparse_forward" if hashed else "HashSoftmaxWithLoss or sparse_forward"
    dense_outputs = f"forward's dense outputs, (samples, {advice.rows:,})"
    if _verdict(drop_in) != "hash":
        return f"pays by {other} alone: with {dense_outputs}, it is {drop_in:.2g}x as fast"
    if sparse > _ALIKE * drop_in:
        return f"{keep}: {drop_in:.2g}x as fast; {sparse:.2g}x by {other}, without {dense_outputs}"
    return keep
