"""`cxrbase` in a process that stops itself once it has put a file in place, so that a test can act meanwhile."""

import os
import signal
from pathlib import Path

import warm
from waiting import until

_PAUSES = """
import fnmatch, os, runpy, signal, sys
name, left = sys.argv.pop(1), int(sys.argv.pop(1))
put = os.replace
def replace(source, target):
    global left
    put(source, target)
    left -= fnmatch.fnmatch(os.path.abspath(target), "*/" + name)
    if not left:
        os.replace = put
        os.kill(os.getpid(), signal.SIGSTOP)
os.replace = replace
runpy.run_module("cxrbase", run_name="__main__", alter_sys=True)
"""


def _stands(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def start(words, name, *, count=1, **streams):
    """Returns a process of `cxrbase` that stands still (SIGSTOP) once a file came to be; SIGCONT lets it go on.

    Args:
        words: The command.
        name: End of the path of the file, with wildcards.
        count: Which of the files that `name` fits, from 1.
        **streams: As of `warm.Process`.
    """
    process = warm.Process(["-c", _PAUSES, name, count, *words], **streams)
    until(lambda: _stands(process.pid), process)
    return process


def signal_and_go_on(process, number):
    """Sends a signal to a process that stands still, which meets it where it goes on."""
    os.kill(process.pid, number)
    os.kill(process.pid, signal.SIGCONT)
