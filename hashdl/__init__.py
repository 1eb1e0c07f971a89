"""hashdl: large PyTorch layers that cost what they use.

Locality-sensitive hash tables over the rows of a layer's weight; forward, backward and update
touch only the rows that an input meets. See https://arxiv.org/abs/1602.08194.
"""

import importlib
from types import ModuleType

from hashdl import _extension

_C = _extension.load()

from hashdl import functional, metrics, ops, optim  # noqa: E402
from hashdl.config import HashConfig  # noqa: E402
from hashdl.conversion import convert, revert  # noqa: E402
from hashdl.info import build_info, has_extension  # noqa: E402
from hashdl.nn import HashFeedForward, HashLinear, HashMLP, HashSoftmaxWithLoss  # noqa: E402
from hashdl.tuning import (  # noqa: E402
    Advice,
    LayerAdvice,
    TrainingResult,
    TuneResult,
    advise,
    tune,
    tune_training,
)

__version__ = "0.1.0"

__all__ = [
    "Advice",
    "HashConfig",
    "HashFeedForward",
    "HashLinear",
    "HashMLP",
    "HashSoftmaxWithLoss",
    "LayerAdvice",
    "TrainingResult",
    "TuneResult",
    "advise",
    "build_info",
    "convert",
    "data",
    "distributed",
    "functional",
    "has_extension",
    "metrics",
    "ops",
    "optim",
    "revert",
    "tune",
    "tune_training",
]


def __getattr__(name: str) -> ModuleType:
    """On first use what needs more than layers do: numpy, or torch.distributed."""
    if name in ("data", "distributed"):
        return importlib.import_module(f"hashdl.{name}")
    raise AttributeError(f"module 'hashdl' has no attribute {name!r}")
