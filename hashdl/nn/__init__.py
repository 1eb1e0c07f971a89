"""Modules whose large weight is hashed."""

from hashdl.nn.columns import ColumnLinear
from hashdl.nn.feed_forward import HashFeedForward
from hashdl.nn.hidden import Active, HashHidden
from hashdl.nn.linear import HashLinear
from hashdl.nn.mlp import HashMLP
from hashdl.nn.sequential import HashSequential
from hashdl.nn.softmax import HashSoftmaxWithLoss

__all__ = [
    "Active",
    "ColumnLinear",
    "HashFeedForward",
    "HashHidden",
    "HashLinear",
    "HashMLP",
    "HashSequential",
    "HashSoftmaxWithLoss",
]
