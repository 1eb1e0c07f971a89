"""Joules: by the processor's counters where there are any, else estimated from counted work.

Linux shows the counters of Intel's and AMD's processors (RAPL) in /sys/class/powercap. What they
count is the whole package, and its memory where there is a zone for it: other programs and idling
included. Most virtual machines have none, and mostly reading them takes an administrator's rights.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple

#: Where Linux shows the counters.
POWERCAP = Path("/sys/class/powercap")

#: Of a float32 multiplication and an addition, in a 45 nm process at 0.9 V: 3.7 and 0.9 pJ.
#: M. Horowitz, *Computing's energy problem (and what we can do about it)*, ISSCC 2014, fig. 1.1.9.
MULTIPLY_ADD = 4.6e-12
#: Of a byte between processor and DRAM: there 64 bits take 1.3 to 2.6 nJ; this is the middle.
DRAM_BYTE = 1.95e-9 / 8
#: How an estimate is to be labelled.
ESTIMATED = "estimated: Horowitz, ISSCC 2014, 45 nm"

# Cores and graphics are parts of a package, and psys has packages in it: they would count twice.
_COUNTED = ("package", "dram")
# A counter that goes up to 2^32 times 61 microjoules is full after 20 minutes at 200 W.
_SECONDS = 30.0


class Estimate(NamedTuple):
    """Joules of counted work.

    Attributes:
        arithmetic: of the multiplications, each with an addition.
        memory: of the bytes between processor and DRAM.
    """

    arithmetic: float
    memory: float

    @property
    def joules(self) -> float:
        """Both."""
        return self.arithmetic + self.memory


def estimate(multiplications: float, moved: float) -> Estimate:
    """Joules of so much work, by published figures of one process: no measurement.

    It knows neither caches nor instructions nor idling. What it is good for is comparing two ways
    to do the same.

    Args:
        multiplications: in float32, each with an addition.
        moved: bytes read from DRAM or written there.

    Examples:
        >>> work = estimate(1e9, 1e6)
        >>> round(work.arithmetic, 6), round(work.memory, 6)
        (0.0046, 0.000244)
    """
    return Estimate(MULTIPLY_ADD * multiplications, DRAM_BYTE * moved)


class _Zone(NamedTuple):
    """A counter of microjoules that begins again at 0 once it is full."""

    name: str
    counter: Path
    full: int

    def read(self) -> int:
        return int(self.counter.read_text())


class EnergyMeter:
    """Joules that the processor takes in a block, as its counters say.

    Args:
        root: where the counters are. Default: :data:`POWERCAP`.

    Attributes:
        joules: of all zones together; None where there is no counter to read.
        by_zone: joules by the name of the zone, such as ``"package-0"`` or ``"dram"``.
        source: ``"measured: "`` and the zones, or ``"not measured: "`` and why.

    Examples:
        >>> with EnergyMeter() as meter:
        ...     total = sum(range(1000))
        >>> (meter.joules is None) == meter.source.startswith("not measured")
        True
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._zones, reason = _readable_zones(root)
        names = ", ".join(zone.name for zone in self._zones)
        self.source = f"measured: {names}" if self._zones else f"not measured: {reason}"
        self.by_zone: dict[str, float] = {}
        self._last: list[int] = []
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def joules(self) -> float | None:
        """Of all zones."""
        return sum(self.by_zone.values()) if self.by_zone else None

    def __enter__(self) -> EnergyMeter:
        self.by_zone = {zone.name: 0.0 for zone in self._zones}
        self._last = [zone.read() for zone in self._zones]
        if self._zones:
            self._done.clear()
            self._thread = threading.Thread(target=self._watch, name="hashdl-energy", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._thread is not None:
            self._done.set()
            self._thread.join()
            self._thread = None
            self._add()

    def _watch(self) -> None:
        """Look often enough that no counter is full twice between two looks."""
        while not self._done.wait(_SECONDS):
            self._add()

    def _add(self) -> None:
        """Add what was taken since the last look."""
        now = [zone.read() for zone in self._zones]
        for zone, before, after in zip(self._zones, self._last, now, strict=True):
            taken = after - before if after >= before else after - before + zone.full
            self.by_zone[zone.name] += taken / 1e6
        self._last = now


def _readable_zones(root: Path) -> tuple[list[_Zone], str]:
    """The counters that add up to what the processors take; where there is none, why."""
    zones: list[_Zone] = []
    reason = f"no counter in {root}"
    for folder in sorted(root.glob("intel-rapl:*")):
        try:
            name = (folder / "name").read_text().strip()
            if not name.startswith(_COUNTED):
                continue
            zone = _Zone(
                _unique(name, folder, zones),
                folder / "energy_uj",
                int((folder / "max_energy_range_uj").read_text()),
            )
            zone.read()
        except PermissionError:
            reason = f"no right to read the counters in {root}"
        except (OSError, ValueError) as error:
            reason = f"{folder}: {error}"
        else:
            zones.append(zone)
    return zones, reason


def _unique(name: str, folder: Path, zones: list[_Zone]) -> str:
    """Memory of several packages has one name: that of its folder tells them apart."""
    taken = any(zone.name == name for zone in zones)
    return f"{name} of {folder.name}" if taken else name
