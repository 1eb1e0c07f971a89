"""SGD, Adagrad and Adam over sparse gradients, one pass over the rows touched.

Each is torch's optimizer of the same name: parameters with a dense gradient are left to torch's
own step (fused where it has one), those with a sparse COO gradient take the row kernels. A gradient
of single entries (two sparse dimensions) takes them too: an entry is a row of one element. So do
dense gradients where states are kept in a way that torch's step does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from hashdl import ops
from hashdl.huge_pages import prefer_huge_pages
from hashdl.optim.sparse import (
    coalesced,
    distinct_rows,
    entries_in_memory,
    in_memory,
    values_in_memory,
)
from hashdl.profiling import part

# What torch's steps know and the row kernels do not.
_DENSE_ONLY = ("amsgrad", "dampening")

Closure = Callable[[], float] | None
State = dict[str, Any]


class _Update(NamedTuple):
    """What a gradient says about one parameter.

    Attributes:
        parameter: of shape (N, d) or (N,); of any with ``entries``.
        rows: int32 (U,), distinct: rows; or, with ``entries``, places in the parameter's memory.
        grad: (U, d) or (U,), of these.
        entries: whether the gradient is one of single entries.
        number: which of the optimizer's parameters it is, from 0.
    """

    parameter: Tensor
    rows: Tensor
    grad: Tensor
    entries: bool
    number: int

    @classmethod
    def of(cls, parameter: Tensor, number: int) -> _Update:
        """The update that the parameter's gradient asks for."""
        grad = parameter.grad
        assert grad is not None
        if not grad.is_sparse:
            entries = parameter.dim() not in (1, 2) or not parameter.is_contiguous()
            values = values_in_memory(grad, parameter) if entries else grad.contiguous()
            rows = torch.arange(len(values), dtype=torch.int32, device=grad.device)
            return cls(parameter, rows, values, entries, number)
        if grad.sparse_dim() == 2:
            grad = coalesced(parameter)
            places = entries_in_memory(grad, parameter)
            return cls(parameter, places, grad._values(), True, number)
        return cls(parameter, *distinct_rows(parameter), False, number)

    def weight(self) -> Tensor:
        """The parameter as the kernels take it."""
        return in_memory(self.parameter) if self.entries else self.parameter

    def state(
        self,
        state: State,
        name: str,
        *,
        row_wise: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """A state likewise: zeros at first, else what another step may have left there.

        It is float32 for 16-bit parameters, so that small updates are not lost, unless ``dtype``
        says otherwise; one scalar a row, which takes no memory to speak of, in any case.
        """
        row_wise = row_wise and self.parameter.dim() == 2 and not self.entries
        if dtype is None or row_wise:
            dtype = torch.promote_types(self.parameter.dtype, torch.float32)
        value: Tensor | None = state.get(name)
        if value is None:
            like = self.parameter[:, 0].contiguous() if row_wise else self.parameter
            value = prefer_huge_pages(torch.empty_like(like, dtype=dtype)).zero_()
        elif row_wise and value.dim() == 2:
            value = value.mean(1)
        elif value.dim() < self.parameter.dim() and not row_wise:
            value = value[:, None].expand_as(self.parameter).contiguous()
        value = value.to(dtype)
        if not row_wise and value.stride() != self.parameter.stride():
            # A checkpoint of a contiguous parameter, say: entries are found by place.
            value = torch.empty_like(self.parameter, dtype=dtype).copy_(value)
        state[name] = value
        return in_memory(value) if self.entries else value


class _RowOptimizer(torch.optim.Optimizer):
    """Mixed in before one of torch's optimizers: takes the sparse gradients off its hands."""

    def _update_rows(self, update: _Update, state: State, group: State) -> None:
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Closure = None) -> float | None:  # type: ignore[override]
        """One step: touched rows of sparse gradients, torch's own step for dense ones.

        Args:
            closure: reevaluates the model and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with part("optimizer"):
            ours, others = self._parameters_with_gradient()
            for _, _, group in ours:
                self._check_supported(group)
            for number, parameter, group in ours:
                update = _Update.of(parameter, number)
                if group.get("maximize"):
                    update = update._replace(grad=-update.grad)
                self._update_rows(update, self.state[parameter], group)
            if others:
                with _hidden([parameter for _, parameter, _ in ours]):
                    self._dense_step()
        return loss

    def _check_supported(self, group: State) -> None:
        """Options of torch's that a group, or a state dict, may have brought."""
        for name in _DENSE_ONLY:
            if group.get(name):
                raise ValueError(
                    f"hashdl.optim.{type(self).__name__}: {name}: got {group[name]}, wanted "
                    f"{type(group[name])()} for parameters whose rows are updated"
                )

    def _dense_step(self) -> None:
        """Torch's own step, without the hooks: they run around :meth:`step` already."""
        step: Any = super().step
        # Torch wraps the step of a class with its hooks when the first object is made.
        step = step.__wrapped__.__get__(self) if getattr(step, "hooked", False) else step
        step()

    def load_state_dict(self, state_dict: State) -> None:
        """As torch's, but a state keeps the dtype in which it was saved.

        Torch casts each state to its parameter's dtype: 16-bit parameters have float32 states.
        """
        super().load_state_dict(state_dict)
        names = [name for group in state_dict["param_groups"] for name in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for name, parameter in zip(names, parameters, strict=True):
            for key, saved in state_dict["state"].get(name, {}).items():
                value = self.state[parameter].get(key)
                if isinstance(value, Tensor) and value.dtype != saved.dtype:
                    self.state[parameter][key] = saved.to(value.device, copy=True)

    def _parameters_with_gradient(self) -> tuple[list[tuple[int, Tensor, State]], bool]:
        """Those that take the row kernels, numbered, with their groups; whether others are left."""
        ours, others = [], False
        everything = ((p, group) for group in self.param_groups for p in group["params"])
        for number, (parameter, group) in enumerate(everything):
            if parameter.grad is None:
                continue
            if parameter.grad.is_sparse or self._keeps_states(parameter, group):
                ours.append((number, parameter, group))
            else:
                others = True
        return ours, others

    def _keeps_states(self, parameter: Tensor, group: State) -> bool:
        """Whether states are, or were left by sparse gradients, as torch's step knows none.

        In another dtype than the parameter, or one a row.
        """
        return group.get("state_dtype") is not None or any(
            isinstance(value, Tensor)
            and value.dim() > 0
            and (value.dtype != parameter.dtype or value.shape != parameter.shape)
            for value in self.state.get(parameter, {}).values()
        )


@contextmanager
def _hidden(parameters: list[Tensor]) -> Iterator[None]:
    """Take the gradients away for a while: torch passes over parameters without one."""
    grads = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad


class SGD(_RowOptimizer, torch.optim.SGD):
    """:class:`torch.optim.SGD` that updates only rows with a gradient.

    Momentum and weight decay act on a row when it is touched.

    Args:
        params: parameters or groups of them.
        lr: learning rate. Default: 1e-3.
        momentum: momentum factor. Default: 0.
        weight_decay: L2 penalty on touched rows. Default: 0.
        nesterov: Nesterov momentum. Default: ``False``.

    Examples:
        >>> from hashdl import HashConfig, HashLinear
        >>> layer = HashLinear(4, 100, config=HashConfig(active=10, sparse_grad=True))
        >>> optimizer = SGD(layer.parameters(), lr=0.1, momentum=0.9)
        >>> layer(torch.randn(2, 4)).square().sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0.0,
        *,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
        )

    def _update_rows(self, update: _Update, state: State, group: State) -> None:
        buffer = update.state(state, "momentum_buffer") if group["momentum"] else None
        ops.sgd_rows_(
            update.weight(),
            buffer,
            update.rows,
            update.grad,
            lr=float(group["lr"]),
            momentum=group["momentum"],
            nesterov=group["nesterov"],
            weight_decay=group["weight_decay"],
        )


class Adagrad(_RowOptimizer, torch.optim.Adagrad):
    """:class:`torch.optim.Adagrad` that updates only rows with a gradient.

    Args:
        params: parameters or groups of them.
        lr: learning rate. Default: 1e-2.
        lr_decay: the rate is divided by ``1 + (step - 1) lr_decay``. Default: 0.
        weight_decay: L2 penalty on touched rows. Default: 0.
        initial_accumulator_value: of the sums of squares. Default: 0.
        eps: added to the root. Default: 1e-10.
    """

    _row_wise = False

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        super().__init__(params, lr, lr_decay, weight_decay, initial_accumulator_value, eps)

    def _update_rows(self, update: _Update, state: State, group: State) -> None:
        state["step"] += 1
        ops.adagrad_rows_(
            update.weight(),
            update.state(state, "sum", row_wise=self._row_wise),
            update.rows,
            update.grad,
            lr=float(group["lr"]) / (1 + (float(state["step"]) - 1) * group["lr_decay"]),
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )


class RowWiseAdagrad(Adagrad):
    """:class:`Adagrad` with one scalar of state a row: the mean of the squares of its gradient.

    1-d parameters, and those with a gradient that is dense or of single entries, keep a state for
    each element; a dense one that follows one of rows finds one a row, and keeps to it.
    After the row-wise Adagrad of Mudigere et al. (ISCA 2022, section 3.2).
    """

    _row_wise = True


class Adam(_RowOptimizer, torch.optim.Adam):
    r""":class:`torch.optim.Adam` that updates only rows with a gradient.

    The averages of a row decay when it is touched; the bias correction is that of the global step
    (lazy Adam, as :class:`torch.optim.SparseAdam`), so a row that is first met late takes a first
    step of up to ``lr * (1 - beta1) / sqrt(1 - beta2)``.

    With ``state_dtype=torch.bfloat16`` both averages of an element take 4 bytes instead of 8. A
    step computes in float32 from what is stored,

    .. math::
        m &= \hat m + (1 - \beta_1) (g - \hat m), \qquad
        v = \beta_2 \hat v + (1 - \beta_2) g^2, \\
        w &\leftarrow w - \frac{\eta}{1 - \beta_1^t}
        \frac{m}{\sqrt{v / (1 - \beta_2^t)} + \epsilon},

    and stores :math:`\hat m, \hat v` as m and v rounded to one of their two neighbours in bfloat16,
    to each with the probability that makes the expectation exact (Gupta et al., ICML 2015).
    Rounding to the nearest would not do: with :math:`\beta_2` = .999, v falls by at most .1 % a
    step, less than half the distance of neighbours (.2 to .4 % of v), and would never come down.
    What it costs: noise without bias. For normal gradients and the default betas the stored v is
    off by 4 % (standard deviation), where v itself, an average over 1000 steps, varies by 3 %; for
    gradients of one size by .2 %. A step's length feels half of it.

    Args:
        params: parameters or groups of them.
        lr: learning rate. Default: 1e-3.
        betas: decay of the two averages. Default: (0.9, 0.999).
        eps: added to the root. Default: 1e-8.
        weight_decay: on touched rows. Default: 0.
        decoupled_weight_decay: decay as in AdamW instead of an L2 penalty. Default: ``False``.
        capturable: keep the count of steps where the parameters are, so that a CUDA graph may hold
            the step; replays then go on counting, at the rate of the capture. Default: ``False``.
        fused: torch's fused step for dense gradients. Default: ``None``, torch's own choice.
        state_dtype: ``torch.bfloat16`` keeps the averages in it, rounded at random, by draws that
            depend on the step and the place alone; dense gradients then take the row kernels, too.
            An option of groups, which come back with a checkpoint. Default: ``None``, float32, or
            what torch's step for dense gradients chooses.

    Raises:
        ValueError: ``state_dtype`` is another.

    Examples:
        >>> from hashdl import HashConfig, HashLinear
        >>> layer = HashLinear(4, 100, config=HashConfig(active=10, sparse_grad=True))
        >>> optimizer = Adam(layer.parameters(), lr=0.01, state_dtype=torch.bfloat16)
        >>> layer(torch.randn(2, 4)).square().sum().backward()
        >>> optimizer.step()
        >>> optimizer.state[layer.weight]["exp_avg_sq"].dtype
        torch.bfloat16
    """

    _row_wise = False

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        capturable: bool = False,
        fused: bool | None = None,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            capturable=capturable,
            fused=fused,
        )
        _check_state_dtype(state_dtype)
        self.defaults["state_dtype"] = state_dtype
        self._complete_groups()
        # GradScaler leaves the unscaling to optimizers that say so; the row kernels do none.
        self._step_supports_amp_scaling = False

    def add_param_group(self, param_group: State) -> None:
        """As torch's, with ``state_dtype`` among a group's options."""
        _check_state_dtype(param_group.get("state_dtype"))
        super().add_param_group(param_group)

    def __setstate__(self, state: State) -> None:
        """Of a checkpoint of torch's Adam, say, which has no ``state_dtype``: as it was made."""
        super().__setstate__(state)
        self._complete_groups()

    def _complete_groups(self) -> None:
        for group in self.param_groups:
            group.setdefault("state_dtype", self.defaults.get("state_dtype"))

    def _update_rows(self, update: _Update, state: State, group: State) -> None:
        if "step" not in state:
            on_device = group["capturable"] or group["fused"]  # as torch has it
            device = update.parameter.device if on_device else "cpu"
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        state["step"] = state["step"].float()  # of a checkpoint, it has the default dtype
        state["step"] += 1
        ops.adam_rows_(
            update.weight(),
            update.state(state, "exp_avg", dtype=group["state_dtype"]),
            update.state(state, "exp_avg_sq", row_wise=self._row_wise, dtype=group["state_dtype"]),
            update.rows,
            update.grad,
            lr=float(group["lr"]),
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            decoupled=group["decoupled_weight_decay"],
            step=state["step"],
            seed=update.number,
        )


def _check_state_dtype(state_dtype: torch.dtype | None) -> None:
    if state_dtype not in (None, torch.bfloat16):
        raise ValueError(
            f"hashdl.optim.Adam: state_dtype: got {state_dtype}, wanted torch.bfloat16 or None"
        )


class AdamW(Adam):
    """:class:`torch.optim.AdamW` that updates only rows with a gradient.

    A row decays when it is touched, by ``lr * weight_decay``.

    Args:
        params: parameters or groups of them.
        lr: learning rate. Default: 1e-3.
        betas: decay of the two averages. Default: (0.9, 0.999).
        eps: added to the root. Default: 1e-8.
        weight_decay: of touched rows. Default: 1e-2.
        capturable: see :class:`Adam`.
        fused: see :class:`Adam`.
        state_dtype: see :class:`Adam`.

    Examples:
        >>> from hashdl import HashConfig, HashLinear
        >>> layer = HashLinear(4, 100, config=HashConfig(active=10, sparse_grad=True))
        >>> optimizer = AdamW(layer.parameters(), lr=0.01, weight_decay=0.1)
        >>> layer(torch.randn(2, 4)).square().sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        capturable: bool = False,
        fused: bool | None = None,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            *(params, lr, betas, eps, weight_decay),
            decoupled_weight_decay=True,
            capturable=capturable,
            fused=fused,
            state_dtype=state_dtype,
        )

    def __setstate__(self, state: State) -> None:
        """Of a checkpoint of another Adam, as torch's AdamW does: the decay stays decoupled."""
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True


class RowWiseAdam(Adam):
    """:class:`Adam` whose second moment is one scalar a row: the mean over the row's elements.

    1-d parameters, and those with a gradient that is dense or of single entries, keep one for each
    element; a dense one that follows one of rows finds one a row, and keeps to it. The scalar is
    float32 with any ``state_dtype``; with one, dense gradients of contiguous matrices have it, too.
    """

    _row_wise = True
