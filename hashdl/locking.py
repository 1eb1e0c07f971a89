"""A lock of one module's, which its copies do not share."""

from __future__ import annotations

import os
import threading
import weakref


class Lock:
    """A re-entrant lock; a copy of it, and what pickle makes of it, is a new one.

    So it is in a process that was forked: of the threads that may hold it there is one alone.

    Examples:
        >>> import copy
        >>> lock = Lock()
        >>> with lock, lock:
        ...     copy.deepcopy(lock) is lock
        False
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        return Lock, ()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _renew() -> None:
    for lock in _locks:
        lock._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
