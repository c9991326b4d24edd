"""The signal before a job's time limit, or its preemption, ends the job: it is no failure of a group."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class TimeUp(BaseException):
    """The job has to end. No Exception, for what is caught where a group fails must not swallow it."""


@contextmanager
def ends_when_time_is_up() -> Iterator[None]:
    """Let what the handlers of SIGUSR1 and SIGUSR2 raise reach the caller, as TimeUp.

    submitit (1.5) raises an Exception in its handler, wherever the job stands, unless it has the job
    requeued; then it raises SystemExit, which stays as it is. Signals without a handler stay so.
    """
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
        known = {number: signal.getsignal(number) for number in numbers}
        handlers = {number: handler for number, handler in known.items() if callable(handler)}
    for number, handler in handlers.items():
        signal.signal(number, _raising(handler))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _raising(handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except Exception as error:
            raise TimeUp(str(error)) from error

    return handle
