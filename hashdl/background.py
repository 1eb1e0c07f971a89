"""Work in a thread beside training, whose result is asked for later."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from threading import Thread
from typing import Any

_numbers = itertools.count(1)
_known: weakref.WeakValueDictionary[int, Background] = weakref.WeakValueDictionary()


class Background:
    """One owner's work, a piece at a time. A copy of it has none under way.

    Attributes:
        number: by which ops, that take no objects, find it: :func:`background`.

    Examples:
        >>> work = Background()
        >>> work.begin(lambda: 6 * 7)
        >>> work.result(), work.result()
        (42, None)
    """

    def __init__(self) -> None:
        self.number = next(_numbers)
        self._thread: Thread | None = None
        self._result: Any = None
        self._error: BaseException | None = None
        _known[self.number] = self

    def __reduce__(self) -> tuple[type[Background], tuple[()]]:
        return Background, ()

    def begin(self, work: Callable[[], Any]) -> None:
        """Have a thread do it; what was under way is waited for and forgotten."""
        self._wait()
        self._result = self._error = None

        def run() -> None:
            try:
                self._result = work()
            except BaseException as error:  # for the thread that asks for the result
                self._error = error

        self._thread = Thread(target=run, name="hashdl-background")
        self._thread.start()

    def result(self) -> Any:
        """Wait for what was begun, and answer with its result, once; None if there is none.

        Raises:
            BaseException: what the work has raised.
        """
        self._wait()
        result, error = self._result, self._error
        self._result = self._error = None
        if error is not None:
            raise error
        return result

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def background(number: int) -> Background | None:
    """The one with that number, unless it is gone."""
    return _known.get(number)
