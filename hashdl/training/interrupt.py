"""Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Within the block, Ctrl-C only notes that a stop is wanted; a second one interrupts at once.

    Yields:
        A function that tells whether a stop is wanted.
    """
    wanted = threading.Event()

    def note(signum: int, frame: FrameType | None) -> None:
        if wanted.is_set():
            raise KeyboardInterrupt
        wanted.set()

    # Only the main thread may set handlers; elsewhere Ctrl-C is the main thread's business.
    if threading.current_thread() is not threading.main_thread():
        yield wanted.is_set
        return
    previous = signal.signal(signal.SIGINT, note)
    try:
        yield wanted.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
