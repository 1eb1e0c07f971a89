"""Hash families, and what prepares rows and queries for them. See docs/families.md."""

from hashdl.hashing.families import FAMILIES, register
from hashdl.hashing.family import Family

__all__ = ["FAMILIES", "Family", "register"]
