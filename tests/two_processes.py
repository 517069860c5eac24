"""Two processes of a run on this machine, as torchrun would start them."""

import os
import socket
import subprocess

import warm


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_two(words, **options):
    """Starts both; `words(rank)` are those after `python`."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "test"}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "OMP_NUM_THREADS": "1"}
    shared |= options.pop("env", {})
    ranks = [os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [warm.Process(words(rank), env=ranks[rank], stderr=subprocess.PIPE, **options) for rank in range(2)]


def end_two(started):
    """Waits for both, which must end well."""
    errors = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
