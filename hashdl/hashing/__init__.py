"""Hash families and preconditioners. A family is one file; see docs/architecture.md."""

from types import ModuleType

from hashdl.hashing import simhash

FAMILIES: dict[str, ModuleType] = {"simhash": simhash}

__all__ = ["FAMILIES"]
