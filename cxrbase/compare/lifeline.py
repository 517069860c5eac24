"""Ends a worker when the process that started it ends: the worker reads a pipe that closes with that process."""

import os
import signal
import threading
import time

LIFELINE = "--lifeline"  # word of the command line: standard input is that pipe
_GRACE_S = 30.0  # for the checkpoint that SIGTERM asks for


def end_with_parent() -> None:
    """Asks this process to save and end once standard input is closed, and makes it a little later.

    A terminal tells a whole group of processes of Ctrl-C and of its closing. Here that is left to the parent, because a
    run that is told by SIGTERM saves first.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def _watch() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
