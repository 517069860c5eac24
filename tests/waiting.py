"""Waiting for what another process does."""

import time


def until(reached, process=None, *, seconds=300.0):
    """Waits for a value that is true, and returns it.

    Args:
        reached: Gives the value.
        process: What is to bring it about and must run meanwhile; None where nobody knows whose work it is.
        seconds: To wait at most.
    """
    end = time.monotonic() + seconds
    while not (found := reached()):
        if process is not None and process.poll() is not None:
            said = process.stderr.read() if process.stderr else ""
            raise AssertionError(f"the process ended by {process.returncode} before that: {said}")
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
    return found
