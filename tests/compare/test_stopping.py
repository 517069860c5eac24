"""However a comparison ends, its workers end too, and no cell is worked on by two processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cells_at_work import started, workers
from cxrbase.compare.cell_lock import locked
from waiting import until

STOPPED = """
import sys, time
from cxrbase.compare.stop_signals import taken_as_ctrl_c
try:
    with taken_as_ctrl_c():
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("tidies", flush=True)
            time.sleep(1)
            print("report", flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""
HOLDER = """
import sys, time
from pathlib import Path
from cxrbase.compare.cell_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
WORKER = """
import sys, time
from cxrbase.compare.lifeline import end_with_parent
end_with_parent()
print("ready", flush=True)
time.sleep(60)
"""


def python(script, *words, **options):
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_is_taken_as_ctrl_c_and_a_second_one_does_not_keep_it_from_the_report(number):
    process = python(STOPPED)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.readline() == "tidies\n"
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == "report\n"
    assert process.returncode == 130


def test_under_nohup_a_closed_terminal_stops_nothing():
    process = python(STOPPED, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "tidies\nreport\n"


def test_a_second_process_waits_for_the_death_of_the_first(tmp_path):
    first = python(HOLDER, tmp_path, 60)
    assert first.stdout.readline() == "held\n"
    second = python(HOLDER, tmp_path, 0)
    assert "another process works on this cell" in second.stderr.readline()
    assert second.poll() is None
    first.kill()
    assert second.communicate(timeout=60)[0] == "held\n"
    with locked(tmp_path):
        pass


def test_a_worker_ends_when_its_standard_input_closes_and_not_by_what_a_terminal_sends():
    process = python(WORKER, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    for number in (signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.stdin.close()
    assert process.wait(timeout=60) == -signal.SIGTERM


@pytest.mark.slow
def test_after_a_killed_comparison_a_second_one_waits_for_the_worker_that_is_left_and_goes_on_from_its_checkpoint(
    config, tmp_path
):
    words = [sys.executable, "-m", "cxrbase", *config(control=False, amounts={"images": 3200})]
    first = subprocess.Popen(words)
    root = tmp_path / "out" / "small"
    (folder,) = until(lambda: list(root.glob("cells/*")))
    progress, log = folder / "progress.json", folder / "log.txt"
    until(lambda: progress.is_file() and json.loads(progress.read_text()).get("step"))
    (worker,) = started(root)[folder.name]
    os.kill(worker, signal.SIGSTOP)  # as one that is slow to end
    first.kill()
    first.wait()
    second = subprocess.Popen(words)
    until(lambda: "another process works on this cell" in log.read_text())
    assert started(root)[folder.name] == [worker]
    os.kill(worker, signal.SIGCONT)
    assert second.wait(timeout=240) == 0
    text = log.read_text()
    assert len(started(root)[folder.name]) == 2
    # The first had ended before the second began, and not a step was done twice.
    assert text.index("SIGTERM: saved at step") < text.rindex("begins: ")
    assert not Path(f"/proc/{worker}").exists()
    assert "Restor" in text
    assert json.loads((folder / "result.json").read_text())["summary"]["steps"] == 200


@pytest.mark.slow
def test_a_stopped_comparison_takes_its_jobs_back(config, tmp_path):
    pytest.importorskip("submitit")
    root = tmp_path / "out" / "small"
    words = config(control=False, amounts={"images": 32000})
    process = subprocess.Popen([sys.executable, "-m", "cxrbase", *words, "--engine=slurm"])
    until(lambda: started(root))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 130
    until(lambda: workers(root) == [], seconds=60)
    assert "This report is partial" in (root / "report.html").read_text()
