"""Treats signals from a scheduler or a closed terminal like Ctrl-C, so that a comparison stops in one way only."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def taken_as_ctrl_c() -> Iterator[None]:
    """Within it the first SIGTERM or SIGHUP raises KeyboardInterrupt; later ones do not disturb what is tidied up then.

    A signal that was ignored before, as by nohup, still is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # A scheduler tells the process and its group, which is twice.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
