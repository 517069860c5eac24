"""Runs one cell as a process of its own, so that a crash affects no other cell."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cxrbase.compare.board import AGAIN, FAILURE, LOG, RESULT, write_json
from cxrbase.compare.lifeline import LIFELINE

_GRACE_S = 20.0  # a scheduler commonly leaves 30, and the report is still to be written


def start(folder: Path, environment: Mapping[str, str], home: str | None = None) -> subprocess.Popen[bytes]:
    """Starts the worker of a cell, which ends with this process; what it says goes to the cell's log.

    Args:
        folder: Folder of the cell.
        environment: Variables beside those of this process, such as CUDA_VISIBLE_DEVICES.
        home: Folder that relative paths of the comparison are of; None for that of this process.
    """
    command = [sys.executable, "-m", "cxrbase.compare.worker", str(folder), LIFELINE]
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(  # noqa: S603  (this interpreter and a folder, no shell)
            command, cwd=home, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
            env=os.environ | dict(environment),
        )  # fmt: skip


def stop(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Lets workers save and end, and kills those that do not."""
    for worker in workers:
        worker.terminate()
    end = time.monotonic() + _GRACE_S
    for worker in workers:
        try:
            worker.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def settle(folder: Path, code: int) -> None:
    """Notes why a worker ended without a result, from its exit code and the last line of its log, if it has one."""
    if (folder / RESULT).is_file():
        return
    log = (folder / LOG).read_text(errors="replace") if (folder / LOG).is_file() else ""
    lines = [line.strip() for line in log.rpartition(AGAIN)[2].splitlines() if line.strip()]
    killed = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    reason = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "no output")
    write_json(folder / FAILURE, {"reason": f"{killed}: {reason[-400:]}", "code": code})


def run(folder: str, environment: Mapping[str, str] | None = None, home: str | None = None) -> int:
    """Runs a cell to its end; the face for engines that call a function on another machine with the same folders.

    Args:
        folder: Folder of the cell.
        environment: As of `start`.
        home: As of `start`; a task of Ray begins in the folder that Ray was started in.

    Returns:
        Exit code of the worker; 0 where the result was there already.
    """
    place = Path(folder)
    if (place / RESULT).is_file():
        return 0
    with start(place, environment or {}, home) as worker:
        code = worker.wait()
    settle(place, code)
    return code
