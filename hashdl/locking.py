"""A lock of one module's, which its copies do not share."""

from __future__ import annotations

import threading


class Lock:
    """A re-entrant lock; a copy of it, and what pickle makes of it, is a new one.

    Examples:
        >>> import copy
        >>> lock = Lock()
        >>> with lock, lock:
        ...     copy.deepcopy(lock) is lock
        False
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        return Lock, ()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
