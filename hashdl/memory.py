"""How much memory there is."""

from __future__ import annotations

from pathlib import Path

import torch


def bytes_available(device: torch.device | None = None) -> float | None:
    """Memory that can be had without swapping; None where the system does not say.

    Args:
        device: whose memory. Default: that of the CPU.
    """
    if device is not None and device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device is not None and device.type != "cpu":
        return None
    try:
        return 1024.0 * kilobytes(Path("/proc/meminfo"), "MemAvailable")
    except OSError:
        return None


def kilobytes(path: Path, name: str) -> int:
    """A figure of one of Linux's files on memory.

    Raises:
        OSError: there is no such file, or no such figure in it.
    """
    for line in path.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise OSError(f"no {name} in {path}")
