"""Python processes that need not import the large libraries again: forked from one that has.

Each is a process of its own with its own words, environment, folder, streams and random state, and imports this package
and all of its modules itself; only what `LIBRARIES` names is there already, with the first one's hash seed. Tests of
how a process starts start a plain one.
"""

import gc
import importlib
import json
import os
import random
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

LIBRARIES = [
    "lightning.pytorch.cli", "lightning.pytorch.loggers", "timm", "torch._dynamo", "torch.utils.tensorboard",
    "torchvision", "scipy.stats", "pyarrow.parquet", "pyarrow.compute",
]  # fmt: skip
_LARGEST = 1 << 17  # bytes of a request


@cache
def _server() -> str:
    """Address of a server that ends with this process."""
    folder = tempfile.mkdtemp(prefix="warm")
    job = subprocess.Popen([sys.executable, __file__, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert job.stdout.readline() == b"ready\n"
    _server.job = job  # its stdin closes with this process
    return f"{folder}/socket"


def _ask(address, words, env, cwd, group, streams):
    """Starts a process and returns a connection that tells its id and then how it ended."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(address)
    request = {"words": [str(word) for word in words], "env": dict(env), "cwd": str(cwd), "group": group}
    socket.send_fds(connection, [json.dumps(request).encode()], streams)
    return connection, int(connection.recv(64))


class Process:
    """What `subprocess.Popen` of `python <words>` would be, with text in the pipes that are asked for."""

    def __init__(self, words, *, stdout=None, stderr=None, env=None, cwd=None, start_new_session=False):
        self.stdout = self.stderr = self.returncode = None
        ends = [subprocess.DEVNULL]
        for name, given in (("stdout", stdout), ("stderr", stderr)):
            if given == subprocess.PIPE:
                read, given = os.pipe()
                setattr(self, name, os.fdopen(read))
            ends.append(given)
        null = os.open(os.devnull, os.O_RDWR)
        ends = [null if end == subprocess.DEVNULL else end for end in ends]
        streams = [number if end is None else end for number, end in enumerate(ends)]
        env, cwd = os.environ if env is None else env, cwd or Path.cwd()
        self._connection, self.pid = _ask(_server(), words, env, cwd, start_new_session, streams)
        for stream in {null, *ends} - {None}:
            os.close(stream)

    def wait(self, timeout=None):
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = int(self._connection.recv(64))
            except TimeoutError as error:
                raise subprocess.TimeoutExpired("python", timeout) from error
            self._connection.close()
        return self.returncode

    def poll(self):
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._connection, selectors.EVENT_READ)
                if not selector.select(0):
                    return None
        return self.wait()

    def communicate(self, timeout=None):
        """Everything that it says; of two pipes the second may hold what fits into it."""
        said = [None if stream is None else stream.read() for stream in (self.stdout, self.stderr)]
        self.wait(timeout)
        return tuple(said)

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run(words, *, env=None, cwd=None, timeout=300):
    """What `subprocess.run([sys.executable, *words], capture_output=True, text=True)` would return."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        copies = [os.dup(stream.fileno()) for stream in (out, err)]
        process = Process(words, stdout=copies[0], stderr=copies[1], env=env, cwd=cwd)
        process.wait(timeout)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, process.returncode, out.read(), err.read())


def python(folder, *words):
    """Writes a program into a folder that stands in for the interpreter, followed by words that it is always given."""
    path = Path(folder) / "-".join(["python", *(word.strip("-") for word in words)])
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {__file__} {_server()} {" ".join(words)} "$@"\n')
    path.chmod(0o755)
    return path


def _client(address, words):
    connection, pid = _ask(address, words, os.environ, os.getcwd(), False, [0, 1, 2])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os.kill(pid, number))
    status = int(connection.recv(64))
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _serve(folder):
    """Forks for each request; returns the request and its streams in the child, and None when nobody is left to ask."""
    selector, listener = selectors.DefaultSelector(), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"{folder}/socket")
    listener.listen()
    selector.register(listener, selectors.EVENT_READ, "listener")
    selector.register(sys.stdin.buffer, selectors.EVENT_READ, "lifeline")
    os.write(1, b"ready\n")
    while True:
        for key, _ in selector.select():
            if key.data == "lifeline":
                shutil.rmtree(folder)
                return None
            if key.data == "listener":
                connection, _ = listener.accept()
                message, streams, _, _ = socket.recv_fds(connection, _LARGEST, 3)
                pid = os.fork()
                if pid == 0:
                    for other in selector.get_map().values():
                        if other.data != "lifeline":
                            os.close(other.fd)
                    os.close(connection.detach())
                    return json.loads(message), streams
                for stream in streams:
                    os.close(stream)
                connection.send(str(pid).encode())
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
            else:
                pid, connection = key.data
                selector.unregister(key.fd)
                os.close(key.fd)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with connection:
                    try:
                        connection.send(str(status).encode())
                    except OSError:
                        continue  # nobody waits for it any more


def _become(request, streams):
    """Runs the words as the interpreter would."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if request["group"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    # What a process of its own would have by chance, or by these variables.
    for seeded in (random.seed, numpy.random.seed, torch.seed):
        seeded()
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    first, *words = request["words"]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    here = os.getcwd() if first == "-m" else "" if first == "-c" else str(Path(first).parent)
    sys.path[:] = [here, *paths, *(path for path in sys.path[1:] if path not in paths)]
    if first == "-m":
        sys.argv = words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *words[1:]]
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(words[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [first, *words]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(_client(sys.argv[1], sys.argv[2:]))
    import numpy
    import torch

    for library in LIBRARIES:
        importlib.import_module(library)
    gc.freeze()
    asked = _serve(sys.argv[1])
    if asked is not None:
        _become(*asked)
