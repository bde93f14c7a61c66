"""Ctrl-C: remembered, deferred, and never lost."""

from __future__ import annotations

import doctest
import signal
import threading
from types import FrameType

import pytest

from deepseek_det import interrupt
from deepseek_det.interrupt import Deferred, Interrupts


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_docstring_examples_run() -> None:
    assert doctest.testmod(interrupt).failed == 0


def test_deferred_ctrl_c_comes_after_the_block() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), Deferred():
        press()
        done = True
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_deferred_blocks_nest() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), Deferred():
        with Deferred():
            press()
            steps.append("inner")
        steps.append("outer")
    assert steps == ["inner", "outer"]


def test_deferred_keeps_the_error_of_its_block_in_sight() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, Deferred():
        press()
        raise LookupError("first")
    assert isinstance(caught.value.__context__, LookupError)


def test_deferred_calls_a_handler_of_the_program_once() -> None:
    calls: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        calls.append(number)

    before = signal.signal(signal.SIGINT, handler)
    try:
        with Deferred():
            press()
            press()
            assert calls == []
        assert calls == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_deferred_leaves_an_ignored_ctrl_c_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Deferred():
            press()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_deferred_does_nothing_in_another_thread() -> None:
    inside: list[object] = []

    def work() -> None:
        with Deferred():
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [signal.default_int_handler]


def test_deferred_within_interrupts_is_remembered() -> None:
    interrupts = Interrupts()
    with interrupts:
        with pytest.raises(KeyboardInterrupt), Deferred():
            press()
        assert interrupts.came
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
