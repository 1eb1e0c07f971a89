"""Readers and built-in data sets with sparse features and very many labels."""

from .cache import cache_dir
from .dataset import Batch, SparseDataset
from .errors import DataError
from .lemmas import load_lemmas
from .python_source import load_python_source
from .xmc import read_xmc, write_xmc

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
