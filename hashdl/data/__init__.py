"""Readers and built-in data sets with sparse features and very many labels."""

from hashdl.data.cache import cache_dir
from hashdl.data.dataset import Batch, SparseDataset
from hashdl.data.errors import DataError
from hashdl.data.lemmas import load_lemmas
from hashdl.data.python_source import load_python_source
from hashdl.data.xmc import read_xmc, write_xmc

__all__ = [
    "Batch",
    "DataError",
    "SparseDataset",
    "cache_dir",
    "load_lemmas",
    "load_python_source",
    "read_xmc",
    "write_xmc",
]
