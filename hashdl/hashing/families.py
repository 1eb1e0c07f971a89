"""The hash families by name."""

from __future__ import annotations

from hashdl.hashing.family import Family
from hashdl.hashing.kmeans import KMeans
from hashdl.hashing.simhash import SimHash

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


for _family in (SimHash(), KMeans()):
    register(_family)
