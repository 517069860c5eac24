"""The table that is shown while cells run."""

import json
import threading
import time

import pytest

from cxrbase.compare import heartbeat, worker
from cxrbase.compare.board import lay_out
from cxrbase.compare.heartbeat import say
from cxrbase.compare.live import Board
from waiting import until


def cells(board: Board, column: str) -> list[str]:
    table = board.table()
    (found,) = [each for each in table.columns if each.header == column]
    return list(found.cells)


@pytest.mark.parametrize(
    ("took", "step", "first", "left"),
    [(60, 100, 0, "60 s"), (60, 100, 50, "2 min"), (60, 200, 0, "0 s"), (60, 100, 100, ""), (100, 50, 40, "25 min")],
)
def test_time_left_counts_the_steps_of_this_run_only(plan, tmp_path, took, step, first, left):
    places = lay_out(plan, tmp_path / "made", data="data")
    say(places[1].folder, stage="pretraining", step=step, steps=200, loss=0.5, began=time.time() - took, first=first)
    board = Board(places)
    assert cells(board, "left")[1] == left
    assert cells(board, "progress")[1] == f"{step}/200"
    assert cells(board, "state")[:2] == ["waiting", "pretraining"]


def test_a_cell_that_says_nothing_for_long_still_runs_as_long_as_its_worker_lives(plan, tmp_path, monkeypatch):
    place = lay_out(plan, tmp_path / "made", data="data")[0]
    file = place.folder / heartbeat.PROGRESS
    monkeypatch.setattr(heartbeat, "_ALIVE_S", 0.01)

    def scores_for_long(folder):
        say(folder, stage="scoring", step=3)
        with heartbeat._writing:
            file.write_text(json.dumps(place.progress | {"at": time.time() - 600}))
        until(lambda: place.state() == "running", seconds=20)
        return 0

    monkeypatch.setattr(worker, "_work", scores_for_long)
    assert worker.main(place.folder) == 0
    last = place.progress
    assert (last["stage"], last["step"]) == ("scoring", 3)
    assert not any(thread.name == "alive" for thread in threading.enumerate())  # the sign of life ends with the work


def test_the_best_so_far_is_named(finished):
    places = finished({"mae": 0.7, "dino": 0.6, "simclr": 0.65, "untrained": 0.5}, but="mae 32-true seed 0")
    board = Board(places)
    assert str(board.table().caption).startswith("best so far: mae 32-true seed")
    assert "waiting" in cells(board, "state")


def test_without_a_terminal_each_change_of_a_cell_is_one_line_of_the_log(finished, caplog):
    places = finished({"mae": 0.7, "dino": 0.6, "simclr": 0.65, "untrained": 0.5}, but="mae 32-true seed 0")
    caplog.set_level("INFO", logger="cxrbase.compare.live")
    with Board(places) as board:
        board.tick()
        board.tick()
    done = len(places) - 1
    assert len(caplog.messages) == done
    assert all(line.startswith(f"{done} of {len(places)} done; ") for line in caplog.messages)
    assert any(": done 0.600" in line for line in caplog.messages)
