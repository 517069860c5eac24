"""`cxrbase` in a process that stops itself once it has put a file in place, so that a test can act meanwhile."""

import os
import signal
import time
from pathlib import Path

import warm

_PAUSES = """
import os, runpy, signal, sys
name = sys.argv.pop(1)
put = os.replace
def replace(source, target):
    put(source, target)
    if os.path.basename(target) == name:
        os.replace = put
        os.kill(os.getpid(), signal.SIGSTOP)
os.replace = replace
runpy.run_module("cxrbase", run_name="__main__", alter_sys=True)
"""


def _stands(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def start(words, name, **streams):
    """Returns a process of `cxrbase` that stands still (SIGSTOP) after `name` came to be; SIGCONT lets it go on."""
    process = warm.Process(["-c", _PAUSES, name, *words], **streams)
    deadline = time.monotonic() + 120
    while process.poll() is None and not _stands(process.pid):
        assert time.monotonic() < deadline, f"no {name}"
        time.sleep(0.005)
    assert process.poll() is None, process.stderr.read()
    return process


def signal_and_go_on(process, number):
    """Sends a signal to a process that stands still, which meets it where it goes on."""
    os.kill(process.pid, number)
    os.kill(process.pid, signal.SIGCONT)
