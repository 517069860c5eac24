"""A file appears whole or not at all, whatever happens to the process that writes it."""

import subprocess
import sys
import textwrap

import pytest

from cxrbase.whole_files import written_whole


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text("old")
    with written_whole(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text("old")

    def write_half():
        with written_whole(path) as part:
            part.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_write_into_one_another(tmp_path):
    path = tmp_path / "progress.json"
    with written_whole(path) as first:
        first.write_text("first")
        with written_whole(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text("old")
    words = f"""
        import os, signal
        from pathlib import Path
        from cxrbase.whole_files import written_whole
        with written_whole(Path({str(path)!r})) as part:
            part.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(words)], check=False).returncode == -9
    assert path.read_text() == "old"
    assert [other.name[0] for other in tmp_path.iterdir() if other != path] == ["."]
