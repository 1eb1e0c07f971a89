"""The text format of the Extreme Classification Repository.

The first line is ``n_samples n_features n_labels``; each further line is a sample: its labels
joined by commas, then ``feature:value`` pairs, separated by spaces. Labels, features or both may
be absent.
"""

from __future__ import annotations

import bz2
import gzip
import os
import re
import zlib
from array import array
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np
import torch

from hashdl.data.dataset import SparseDataset
from hashdl.data.errors import DataError
from hashdl.files import atomic_path

from ..progress import track

_NUMBER = rb"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
# Whatever matches can be handed to numpy's text parser without further checks.
_LINE = re.compile(
    rb"(?:(?P<labels>\d+(?:,\d+)*)(?:[ \t]+|$))?[ \t]*"
    rb"(?P<features>(?:\d+:" + _NUMBER + rb"(?:[ \t]+|$))*)$"
)
_CHUNK_BYTES = 1 << 22  # enough to make numpy's overhead vanish, small beside any result


class _Header(NamedTuple):
    n_samples: int
    n_features: int
    n_labels: int


def read_xmc(path: str | os.PathLike[str], *, progress: bool = True) -> SparseDataset:
    """Read a data set in the Extreme Classification Repository's text format.

    The file is streamed: beyond the result, memory holds a few megabytes of it at a time.

    Args:
        path: The file; compressed when its name ends in ``.gz`` or ``.bz2``.
        progress: Whether to show progress.

    Returns:
        The data set, with `values` even when they are all 1.

    Raises:
        DataError: If the file is malformed; names the file and the line.
        OSError: If the file cannot be opened.
    """
    path = Path(path)
    with _open(path, "rb", path.suffix) as file:
        lines = _numbered_lines(path, file)
        header = _parse_header(path, next(lines, (1, b""))[1])
        parser = _Parser(path, header)
        samples = islice(lines, header.n_samples)
        for number, line in track(samples, f"Reading {path.name}", header.n_samples, progress):
            parser.add(number, line)
        dataset = parser.finish()
        _check_nothing_follows(path, lines, header.n_samples)
    return dataset


def write_xmc(dataset: SparseDataset, path: str | os.PathLike[str]) -> None:
    """Write a data set in the Extreme Classification Repository's text format.

    Values are written with nine digits, which is enough to read back the same float32. Names of
    labels and samples have no place in the format and are left out.

    Args:
        dataset: What to write.
        path: The file; compressed when its name ends in ``.gz`` or ``.bz2``.
    """
    path = Path(path)
    header = f"{len(dataset)} {dataset.n_features} {dataset.n_labels}\n"
    with atomic_path(path) as temporary, _open(temporary, "wt", path.suffix) as file:
        file.write(header)
        file.writelines(_format_samples(dataset))


class _Parser:
    """Collects samples; parses them a chunk at a time, because numpy is slow on short texts."""

    def __init__(self, path: Path, header: _Header) -> None:
        self.path = path
        self.header = header
        # array.array grows in place (by realloc) and numpy can view it, so that nothing is copied.
        self.indptr = array("q", [0])
        self.indices = array("i")
        self.values = array("f")
        self.label_indptr = array("q", [0])
        self.label_indices = array("i")
        self._start_chunk(first_line=2)

    def _start_chunk(self, first_line: int) -> None:
        self.first_line = first_line
        self.pending_bytes = 0
        self.features: list[bytes] = []
        self.labels: list[bytes] = []

    def add(self, number: int, line: bytes) -> None:
        """Take the line with this number."""
        match = _LINE.match(line)
        if match is None:
            _raise_diagnosis(self.path, number, line)
        self.features.append(match["features"])
        self.labels.append(match["labels"] or b"")
        self.pending_bytes += len(line)
        if self.pending_bytes >= _CHUNK_BYTES:
            self._parse_chunk()

    def finish(self) -> SparseDataset:
        """Return what was collected, after checking that it is all there."""
        self._parse_chunk()
        found = len(self.indptr) - 1
        if found != self.header.n_samples:
            raise DataError(
                self.path,
                f"the file ends after {found} of the {self.header.n_samples} samples "
                "that its first line announces",
                line=found + 1,
            )
        return SparseDataset(
            indptr=_tensor(self.indptr),
            indices=_tensor(self.indices),
            values=_tensor(self.values),
            label_indptr=_tensor(self.label_indptr),
            label_indices=_tensor(self.label_indices),
            n_features=self.header.n_features,
            n_labels=self.header.n_labels,
        )

    def _parse_chunk(self) -> None:
        pairs = _parse_numbers(b" ".join(self.features).replace(b":", b" "), np.float64)
        features, values = pairs.reshape(-1, 2).T
        counts = [text.count(b":") for text in self.features]
        self._check_range("feature", features, self.header.n_features, counts)
        with np.errstate(over="ignore"):  # what overflows float32 is reported just below
            values = values.astype(np.float32)
        self._check("value is not finite in float32", ~np.isfinite(values), counts)
        labels = _parse_numbers(b" ".join(self.labels).replace(b",", b" "), np.int64)
        label_counts = [text.count(b",") + 1 if text else 0 for text in self.labels]
        self._check_range("label", labels, self.header.n_labels, label_counts)

        self.indices.frombytes(features.astype(np.int32).tobytes())
        self.values.frombytes(values.tobytes())
        self.indptr.frombytes(_indptr(self.indptr[-1], counts).tobytes())
        self.label_indices.frombytes(labels.astype(np.int32).tobytes())
        self.label_indptr.frombytes(_indptr(self.label_indptr[-1], label_counts).tobytes())
        self._start_chunk(self.first_line + len(self.features))

    def _check_range(self, what: str, numbers: np.ndarray, size: int, counts: list[int]) -> None:
        bad = numbers >= size
        if bad.any():
            problem = (
                f"{what} {numbers[bad][0]:.0f} is out of range: the first line announces {size}"
            )
            self._check(problem, bad, counts)

    def _check(self, problem: str, bad: np.ndarray, counts: list[int]) -> None:
        """Raise DataError for the line that the first bad entry is in."""
        if bad.any():
            sample = int(np.searchsorted(np.cumsum(counts), int(bad.argmax()), side="right"))
            raise DataError(self.path, problem, line=self.first_line + sample)


def _raise_diagnosis(path: Path, number: int, line: bytes) -> NoReturn:
    """Say what is wrong with a line that is not of the expected form."""
    text = line.decode("utf-8", errors="replace")
    parts = text.split()
    if parts and ":" not in parts[0]:
        for label in parts.pop(0).split(","):
            if not re.fullmatch("[0-9]+", label):
                raise DataError(path, f"label {label!r} is not a whole number", number)
    for part in parts:
        feature, colon, value = part.partition(":")
        if not colon:
            raise DataError(path, f"no colon in {part!r}, expected feature:value", number)
        if not re.fullmatch("[0-9]+", feature):
            raise DataError(path, f"feature {feature!r} is not a whole number", number)
        if not re.fullmatch(_NUMBER.decode(), value, re.ASCII):
            raise DataError(path, f"value {value!r} is not a finite number", number)
    raise DataError(path, f"malformed line {text[:80]!r}", number)


def _parse_header(path: Path, line: bytes) -> _Header:
    if not line.strip():
        raise DataError(path, "the file is empty or does not begin with a header", line=1)
    fields = line.split()
    if len(fields) != 3 or not all(re.fullmatch(rb"[0-9]{1,18}", field) for field in fields):
        text = line.decode("utf-8", errors="replace")[:80]
        raise DataError(
            path, f"header must be 'n_samples n_features n_labels', got {text!r}", line=1
        )
    header = _Header(*map(int, fields))
    largest = np.iinfo(np.int32).max
    if max(header.n_features, header.n_labels) > largest:
        raise DataError(path, f"more than {largest} features or labels", line=1)
    return header


def _check_nothing_follows(path: Path, lines: Iterator[tuple[int, bytes]], n_samples: int) -> None:
    """Accept blank lines at the end of the file, as editors leave them, but no more samples."""
    for number, line in lines:
        if line:
            raise DataError(
                path, f"more samples than the {n_samples} that the first line announces", number
            )


def _numbered_lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines without their ends, and turn errors of reading into DataError."""
    number = 0
    try:
        for number, line in enumerate(file, start=1):
            yield number, line.rstrip(b"\r\n")
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(path, f"cannot be read ({error})", number + 1) from error


def _format_samples(dataset: SparseDataset) -> Iterator[str]:
    """Yield a line a sample."""
    features = dataset.indices.tolist()
    values = None if dataset.values is None else dataset.values.tolist()
    labels = dataset.label_indices.tolist()
    bounds = pairwise(dataset.indptr.tolist())
    label_bounds = pairwise(dataset.label_indptr.tolist())
    for (start, end), (label_start, label_end) in zip(bounds, label_bounds, strict=True):
        weights = [1.0] * (end - start) if values is None else values[start:end]
        pairs = zip(features[start:end], weights, strict=True)
        parts = [",".join(map(str, labels[label_start:label_end]))]
        parts += [f"{feature}:{value:.9g}" for feature, value in pairs]
        yield " ".join(parts) + "\n"


def _parse_numbers(text: bytes, dtype: type) -> np.ndarray:
    """Parse numbers that are separated by blanks and known to be well formed."""
    # numpy finds a number in a text that is blank.
    return np.fromstring(text, dtype=dtype, sep=" ") if text.strip() else np.empty(0, dtype)


def _indptr(last: int, counts: list[int]) -> np.ndarray:
    return last + np.cumsum(counts, dtype=np.int64)


def _tensor(numbers: array[Any]) -> torch.Tensor:
    """View an array as a tensor, without a copy."""
    return torch.from_numpy(np.asarray(numbers))


def _open(path: Path, mode: str, suffix: str) -> IO[Any]:
    """Open a file that is compressed if its final name has this suffix."""
    openers: dict[str, Callable[..., IO[Any]]] = {".gz": gzip.open, ".bz2": bz2.open}
    opener: Callable[..., IO[Any]] = openers.get(suffix, open)
    return opener(path, mode)
