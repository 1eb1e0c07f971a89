"""Modules whose large weight is hashed."""

from hashdl.nn.linear import HashLinear
from hashdl.nn.softmax import HashSoftmaxWithLoss

__all__ = ["HashLinear", "HashSoftmaxWithLoss"]
