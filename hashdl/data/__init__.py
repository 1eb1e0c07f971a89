"""Readers and built-in data sets: sparse ones with very many labels, and small dense images."""

from hashdl.data.cache import cache_dir
from hashdl.data.dataset import Batch, SparseDataset
from hashdl.data.dense import DenseDataset, Splits
from hashdl.data.errors import DataError
from hashdl.data.images import load_digits, load_mnist
from hashdl.data.lemmas import load_lemmas
from hashdl.data.matrix import load_matrix
from hashdl.data.python_source import load_python_source
from hashdl.data.shapes import load_convex, load_rectangles
from hashdl.data.xmc import read_xmc, write_xmc

__all__ = [
    "Batch",
    "DataError",
    "DenseDataset",
    "SparseDataset",
    "Splits",
    "cache_dir",
    "load_convex",
    "load_digits",
    "load_lemmas",
    "load_matrix",
    "load_mnist",
    "load_python_source",
    "load_rectangles",
    "read_xmc",
    "write_xmc",
]
