"""Ctrl-C that can't be lost."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupts:
    """While it is entered, a Ctrl-C raises KeyboardInterrupt as ever, and is remembered.

    Python throws away an exception that is raised in a finalizer or a callback of the garbage
    collector: a Ctrl-C that comes just then would go by unseen. A loop that calls `check` once a
    turn ends all the same. In other threads, or where the program handles SIGINT by itself,
    nothing is changed.

    >>> with Interrupts() as interrupts:
    ...     interrupts.check()
    """

    def __init__(self) -> None:
        self.came = False
        self._ours = False

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._ours = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._ours = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        signal.default_int_handler(number, frame)

    def check(self) -> None:
        """Raises KeyboardInterrupt if a Ctrl-C has come since the start."""
        if self.came:
            raise KeyboardInterrupt
