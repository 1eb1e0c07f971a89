"""Hashes that are the same in every process and on every machine, unlike Python's ``hash``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

U64Array = npt.NDArray[np.uint64]


def hash_strings(strings: Iterable[str]) -> U64Array:
    """Hash each string to 64 bits.

    Args:
        strings: What to hash.

    Returns:
        A hash a string.

    Examples:
        >>> hash_strings(["a", "b"])
        array([3405396810240292928, 8453121595177857668], dtype=uint64)
    """
    digests = (
        hashlib.blake2b(string.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for string in strings
    )
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def mix(numbers: U64Array) -> U64Array:
    """Scramble 64-bit numbers one to one, so that any of their bits can serve as a hash.

    Args:
        numbers: The numbers (the finalizer of splitmix64 is applied to each).

    Returns:
        As many numbers.
    """
    mixed: U64Array = numbers ^ (numbers >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def below(hashes: U64Array, share: float) -> npt.NDArray[np.bool_]:
    """Choose a share of the hashed things, the same ones each time.

    Args:
        hashes: Well mixed 64-bit hashes.
        share: How many to choose, between 0 and 1.

    Returns:
        Whether each one is chosen. What a smaller share chooses, a larger share chooses too.
    """
    return np.asarray((hashes >> np.uint64(11)).astype(np.float64) < share * 2.0**53)


def check_share(name: str, share: float) -> None:
    """Raise ValueError unless ``share`` is a share to hold out.

    Args:
        name: The argument's name, for the message.
        share: At least 0 and less than 1.

    Raises:
        ValueError: If it is not.
    """
    if not 0 <= share < 1:
        raise ValueError(f"{name} must be at least 0 and less than 1, got {share}")
