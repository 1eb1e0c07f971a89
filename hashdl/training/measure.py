"""What a training step costs: its parts, its multiplications, its memory."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from hashdl.data import Batch
from hashdl.info import build_info
from hashdl.memory import kilobytes, release_freed_blocks
from hashdl.profiling import PREFIX
from hashdl.training.trainer import Trainer


def step_parts(trainer: Trainer, steps: int = 10, warm_up: int = 2) -> dict[str, float]:
    """Mean milliseconds of each named part of a training step; the trainer's model moves on.

    Args:
        trainer: whose steps to look at.
        steps: how many.
        warm_up: steps before them.

    Returns:
        As :func:`parts_of`.
    """
    trainer.model.train()
    batches = _endless_batches(trainer)
    for _ in range(warm_up):
        trainer.step(next(batches))
    return parts_of(lambda: [trainer.step(next(batches)) for _ in range(steps)], steps)


def parts_of(
    train: Callable[[], object], steps: int, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Mean milliseconds a step of each named part of some training.

    Args:
        train: runs so many steps.
        steps: how many these are.
        device: whose time is told; of a GPU that of the kernels that a part has launched.

    Returns:
        Milliseconds a step by part, those that there are: ``data``, ``hidden``, ``rehash``,
        ``hash``, ``look-up``, ``select``, ``forward``, ``loss``, ``backward``, ``optimizer``.
    """
    on_gpu = torch.device(device).type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as profiler:
        train()
    return {
        event.key[len(PREFIX) :]: (event.device_time_total if on_gpu else event.cpu_time_total)
        / 1000
        / steps
        for event in profiler.key_averages()
        # A GPU has ranges of its own by the same names.
        if event.key.startswith(PREFIX) and event.device_type.name == "CPU"
    }


def _endless_batches(trainer: Trainer) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from trainer.train.batches(trainer.settings.batch_size, shuffle_seed=epoch)


_SELF = Path("/proc/self/status")


class PeakMemory:
    """Peak resident memory of a block, in MB above what the process had before it.

    Where the system cannot reset its high-water mark (it can on Linux), ``megabytes`` is None.
    """

    megabytes: float | None = None

    def __enter__(self) -> PeakMemory:
        release_freed_blocks()
        self._before = self._reset()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            self.megabytes = (kilobytes(_SELF, "VmHWM") - self._before) / 1000

    @staticmethod
    def _reset() -> int | None:
        try:
            Path("/proc/self/clear_refs").write_text("5")
            return kilobytes(_SELF, "VmRSS")
        except OSError:
            return None


def machine() -> dict[str, Any]:
    """The machine and versions that figures were taken on."""
    return build_info() | {"processor": _processor(), "torch_threads": torch.get_num_threads()}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
