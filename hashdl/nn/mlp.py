"""HashMLP: hashed hidden layers that pass on their active neurons alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from hashdl.config import HashConfig
from hashdl.nn.columns import ColumnLinear
from hashdl.nn.hidden import HashHidden

#: How much larger later layers are drawn where outputs count above their mean. For normal outputs,
#: of which a twentieth is active, 2.3 would keep the second moment that nn.ReLU passes on.
_ABOVE_MEAN = 3.0


class HashMLP(nn.Module):
    r"""A multi-layer perceptron whose hidden layers compute active times active.

    Inputs and outputs are dense. The first hidden layer computes its active neurons from the dense
    input, each further one from the active neurons of the layer before, and the output layer reads
    the columns of the last one's: with A active neurons a layer, a hidden layer after the first
    multiplies A² times forward and 2 A² times backward, beside what finding them takes. Outputs and
    gradients are those of the dense network with all other neurons masked to 0. After Spring and
    Shrivastava, *Scalable and Sustainable Deep Learning via Randomized Hashing* (KDD 2017),
    section 4.

    Weights of a layer whose inputs are A active ones of N are drawn as nn.Linear draws them for A
    inputs, :math:`\sqrt{N / A}` times as large: otherwise outputs would shrink by as much from
    layer to layer, since most inputs are 0, and deep or wide models would hardly begin to learn
    (He et al., *Delving Deep into Rectifiers*, ICCV 2015, section 2.2). Optimizers that step by as
    much whatever the gradient should take steps as much larger there: :meth:`parameter_groups`.

    With ``above`` outputs do not jump where neurons take each other's places
    (:class:`hashdl.nn.HashHidden`): smoother functions, which tell more about samples that were not
    trained on. -0.5 is a good choice. What is above the mean of the largest outputs varies less
    than what nn.ReLU passes on, so weights of later layers are drawn three times as large again,
    :math:`3 e^{a / 2}` times for ``above`` = a.

    Args:
        in_features: d, size of an input.
        hidden: neurons of each hidden layer.
        out_features: size of an output.
        activation: elementwise, after each hidden layer; the same module for all.
            Default: ``None``, nn.ReLU; nn.SiLU if gated.
        gated: multiply each activated hidden layer (the gate, which is hashed) with a linear one
            that is computed at the same neurons. Default: ``False``.
        bias: learn additive biases. Default: ``True``.
        above: activate what an output has above the mean of a sample's active ones in that
            layer, and so many of their standard deviations. Default: ``None``, what it has above 0.
        config: how to hash; of several, one a hidden layer. Default: ``HashConfig()``.
        device: of parameters and tables.
        dtype: of parameters.

    Shape:
        - Input: :math:`(*, d)`
        - Output: :math:`(*, \text{out\_features})`

    Attributes:
        hidden: the hidden layers, :class:`hashdl.nn.HashHidden`.
        output: the output layer, :class:`hashdl.nn.ColumnLinear`.

    Raises:
        ValueError: no hidden layer, not one configuration for each, or ``above`` is not finite.
        TypeError: ``hidden`` is no sequence, the activation no module, or ``above`` no number.

    Examples:
        >>> model = HashMLP(16, [1000, 1000], 10, config=HashConfig(active=0.05, sparse_grad=True))
        >>> model(torch.randn(8, 16)).shape
        torch.Size([8, 10])
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        activation: nn.Module | None = None,
        gated: bool = False,
        bias: bool = True,
        above: float | None = None,
        config: HashConfig | Sequence[HashConfig] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(hidden, Sequence):
            raise TypeError(f"HashMLP: hidden: got {hidden!r}, wanted sizes, such as [{hidden!r}]")
        if not isinstance(activation, nn.Module | None):
            raise TypeError(f"HashMLP: activation: got {activation!r}, wanted an nn.Module")
        _check_above(above)
        configs = _configs(config, len(hidden))
        if activation is None:
            activation = nn.SiLU() if gated else nn.ReLU()
        sizes = [in_features, *hidden]
        self.hidden = nn.ModuleList(
            HashHidden(d, n, activation, gated, one, bias, device, dtype, above)
            for d, n, one in zip(sizes, hidden, configs, strict=False)
        )
        sparse = configs[-1].sparse_grad
        self.output = ColumnLinear(
            sizes[-1], out_features, bias, sparse_grad=sparse, device=device, dtype=dtype
        )
        self._draw_for_active_inputs(_more_above(above))

    def _draw_for_active_inputs(self, more: float) -> None:
        """Scale what nn.Linear has drawn for N inputs, where few are active.

        Args:
            more: times as large again, after the first layer.
        """
        for layer, share in self._shares():
            scale_for_active(layer, share)
            if layer is not self.hidden[0]:
                _scale(layer, more)

    def _shares(self) -> Iterator[tuple[nn.Module, float]]:
        """Each layer, and the share of its inputs that is active."""
        yield self.hidden[0], 1.0
        for before, layer in pairwise([*self.hidden, self.output]):
            assert isinstance(before, HashHidden)
            inputs = before.hashed
            N = inputs.out_features
            yield layer, 1.0 if inputs.tables is None else inputs.config.sizes(N).A / N

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        r"""The parameters, for an optimizer whose steps do not grow with the gradient.

        Such as Adam's or Adagrad's. A layer of which A of N inputs are active has weights
        :math:`\sqrt{N / A}` times as large as nn.Linear's, and takes steps as much larger: then all
        layers change by about the same share of their weights. With one rate for all, either later
        layers hardly learn, or steps of the first push its neurons below zero for good.

        Args:
            lr: learning rate of the first layer; :math:`\sqrt{N / A}` times as much of a later one.

        Returns:
            Groups as any optimizer takes them, one a layer; and one for parameters of the
            activation, if it has some.

        Examples:
            >>> model = HashMLP(16, [100, 100], 10, config=HashConfig(active=4))
            >>> [group["lr"] for group in model.parameter_groups(1e-3)]
            [0.001, 0.005, 0.005]
        """
        groups = groups_for_active(self._shares(), lr)
        grouped = {parameter for group in groups for parameter in group["params"]}
        rest = [parameter for parameter in self.parameters() if parameter not in grouped]
        return [*groups, {"params": rest, "lr": lr}] if rest else groups

    def forward(self, input: Tensor) -> Tensor:
        """Outputs (\\*, out_features)."""
        active = input
        for layer in self.hidden:
            active = layer(active)
        return self.output.from_active(*active)


def _drawn(layer: nn.Module) -> list[nn.Parameter]:
    """Weights and biases: what an activation learns is of all layers."""
    linear = (module for module in layer.modules() if isinstance(module, nn.Linear))
    return [parameter for module in linear for parameter in module.parameters()]


@torch.no_grad()
def _scale(layer: nn.Module, factor: float) -> None:
    for parameter in _drawn(layer):
        parameter.mul_(factor)


def _more_above(above: float | None) -> float:
    """How much larger weights are for inputs that count above their mean, and some deviations.

    Of outputs that are exponential above some level.
    """
    return 1.0 if above is None else _ABOVE_MEAN * math.exp(above / 2)


def scale_for_active(layer: nn.Module, share: float) -> None:
    r"""Scale freshly drawn parameters for inputs of which a share is not zero.

    Args:
        layer: its parameters have been drawn for all inputs; they become
            :math:`\sqrt{1 / share}` times as large, in place.
        share: above 0, at most 1.
    """
    _scale(layer, step_for_active(share))


def groups_for_active(layers: Iterable[tuple[nn.Module, float]], lr: float) -> list[dict[str, Any]]:
    """A group of parameters a layer, with a rate that fits how it is drawn.

    Args:
        layers: each, and the share of its inputs that is active.
        lr: learning rate of a layer whose inputs are all active.
    """
    return [{"params": _drawn(layer), "lr": lr * step_for_active(share)} for layer, share in layers]


def step_for_active(share: float) -> float:
    """How much larger weights, and steps of theirs, are where a share of the inputs is active."""
    return float(share**-0.5)


def _check_above(above: object) -> None:
    if above is None:
        return
    wanted = f"HashMLP: above: got {above!r}, wanted a finite number, or None"
    if isinstance(above, bool) or not isinstance(above, Real):
        raise TypeError(wanted)
    if not math.isfinite(above):
        raise ValueError(wanted)


def _configs(config: HashConfig | Sequence[HashConfig] | None, layers: int) -> Sequence[HashConfig]:
    if layers == 0:
        raise ValueError("HashMLP: hidden: got no layer, wanted one or more")
    if config is None or isinstance(config, HashConfig):
        return [HashConfig() if config is None else config] * layers
    if len(config) != layers:
        raise ValueError(
            f"HashMLP: config: got {len(config)} configurations, wanted one, or one for each of "
            f"{layers} hidden layers"
        )
    return config
