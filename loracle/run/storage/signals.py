"""Being told to end, by Ctrl-C, a closed terminal, or a system that shuts down: it always means the same."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_Handler = Callable[[int, FrameType | None], None]


@contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, unless they are ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM, signal.SIGHUP]  # nohup ignores SIGHUP, and means it
    with _handled(interrupt, [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """What comes in here takes effect at the end of the block, so that the block is done whole or not begun.

    Blocking signals would not do: Python runs a handler in the main thread whichever thread got the signal.
    """
    come: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        come.append(number)

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    try:
        with _handled(note, [n for n in numbers if callable(signal.getsignal(n))]):
            yield
    finally:
        for number in dict.fromkeys(come):
            signal.raise_signal(signal.Signals(number))


@contextmanager
def _handled(handler: _Handler, numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """`handler` for these signals; nothing changes in another thread than the main one, where none run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
