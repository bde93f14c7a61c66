"""Ctrl-C that can't be lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
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


class Deferred:
    """While it is entered, a Ctrl-C waits; it takes effect when the block has ended.

    For the few lines that must not be left halfway: starting threads that somebody has to end, and
    ending them. The block must be short, since nothing can interrupt it. In other threads, which
    no Ctrl-C interrupts, nothing is changed. Blocks may be nested; one object serves one block.

    >>> with Deferred():
    ...     pass
    """

    def __init__(self) -> None:
        self._before: Callable[[int, FrameType | None], object] | None = None
        self._frame: FrameType | None = None
        self._came = False

    def __enter__(self) -> Deferred:
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if callable(before):  # else Ctrl-C is ignored, ends the process, or isn't Python's
                self._before = before
                signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is None:
            return
        signal.signal(signal.SIGINT, self._before)
        frame, self._frame = self._frame, None  # a frame kept would keep all its variables
        if self._came:
            self._before(signal.SIGINT, frame)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._came, self._frame = True, frame
