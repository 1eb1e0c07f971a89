"""The hash families by name."""

from __future__ import annotations

from hashdl.hashing.dwta import DWTA
from hashdl.hashing.family import Family
from hashdl.hashing.kmeans import KMeans
from hashdl.hashing.learned import LearnedSimHash
from hashdl.hashing.minhash import MinHash
from hashdl.hashing.simhash import SimHash
from hashdl.hashing.simhash_hadamard import HadamardSimHash
from hashdl.hashing.simhash_sparse import SparseSimHash
from hashdl.hashing.wta import WTA

#: What ``HashConfig.family`` may be.
FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Make a family known by its name.

    Raises:
        ValueError: the name is taken.
    """
    if family.name in FAMILIES:
        raise ValueError(f"hashdl.hashing.register: there is a family {family.name!r} already")
    FAMILIES[family.name] = family


for _family in (
    *(SimHash(), SparseSimHash(), HadamardSimHash()),
    *(WTA(), DWTA(), MinHash()),
    *(KMeans(), LearnedSimHash()),
):
    register(_family)
