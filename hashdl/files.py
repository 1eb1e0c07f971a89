"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path that becomes ``path`` when the block ends without an exception.

    Args:
        path: The file to write or replace. Its folder is made when missing.

    Yields:
        An empty temporary file in the same folder (a rename across file systems is not atomic).
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        _flush_to_disk(temporary)
        # mkstemp makes files private; the result should look like any file the user writes.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(folder: Path) -> None:
    """Make a folder and see that files can be made in it: fail before the work, not after it.

    Raises:
        OSError: It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"folder {folder} cannot be written to: {error.strerror}") from error


def check_file_writable(path: Path) -> None:
    """See that a file can be made or replaced: fail before the work, not after it.

    Raises:
        OSError: It is a folder, or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise OSError(f"{path} is a folder, wanted the name of a file")
    check_writable(path.resolve().parent)


def _flush_to_disk(path: Path) -> None:
    """Make the content durable before the rename is: a crash must not leave an empty file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
