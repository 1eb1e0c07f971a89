"""The error vocabulary of hashdl.data."""

from __future__ import annotations

from os import PathLike


class DataError(ValueError):
    """A file that does not hold what it should.

    Args:
        path: The file.
        problem: What is wrong, as a phrase.
        line: Number of the offending line, counted from 1, where one line is to blame.

    Examples:
        >>> str(DataError("train.txt", "label 7 is out of range", line=3))
        'train.txt, line 3: label 7 is out of range'
    """

    def __init__(self, path: str | PathLike[str], problem: str, line: int | None = None) -> None:
        where = f"{path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {problem}")
