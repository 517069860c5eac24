"""Files of settings that would fill the memory, or are none, are answered in one sentence by every `--config`."""

import json
import re

import pytest
import yaml

import warm
from commands import EXPERIMENTS
from cxrbase.config_files import LARGEST, read_config
from cxrbase.errors import ConfigError

# Every name stands for nine of the one before: 9^12 values.
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
BAD = {
    "itself": (b"model: &a {x: *a}", "alias [*]a"),
    "laughs": (LAUGHS.encode(), "alias [*]a"),
    "merged": (b"model: &a {x: 1}\ndata: {<<: *a}", "alias [*]a"),
    "latin1": ("# Bäcker\nmodel: {}".encode("latin-1"), "not UTF-8 text .byte 3."),
    "list": (b"[1, 2]", "holds no settings"),
    "empty": (b"", "holds no settings"),
    "large": (b"# " + b"x" * LARGEST, f"more than {LARGEST:,} bytes"),
    "deep": (b"model: " + b"[" * 60 + b"]" * 60, "more than 50 levels"),
    "code": (b"model: !!python/object/apply:os.getcwd []", "has the tag"),
    "twice": (b"data: {root: a}\nmodel: {}\ndata: {root: b}", "gives data again in line 3"),
    "twice_within": (b"data: {root: a, seed: 1, root: b}", "gives root again in line 1"),
    "open": (b"model: [", "is not valid YAML"),
    "date": (b"model: 2024-13-41", "is not valid YAML"),
    "digits": (b"model: " + b"9" * 5000, "is not valid YAML"),
}
# In one process, which the kernel ends when it takes more than a minute.
COMMANDS = """
import json, resource, sys
from cxrbase.cli import main
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for words in json.loads(sys.argv[1]):
    try:
        print(main(words))
    except SystemExit as end:
        print(end.code)
"""


def answers(commands):
    """Exit codes and last lines of what commands say."""
    done = warm.run(["-c", COMMANDS, json.dumps([[str(word) for word in words] for words in commands])])
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stderr.splitlines()
    assert len(said) == len(commands), done.stderr
    return [int(code) for code in done.stdout.split()], said


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    for name, (data, _) in BAD.items():
        (folder / f"{name}.yaml").write_bytes(data)
    return folder


def test_fit_refuses_every_bad_file_at_once_in_one_sentence(bad):
    codes, said = answers([["fit", "--config", bad / f"{name}.yaml"] for name in BAD])
    for code, line, (name, (_, sentence)) in zip(codes, said, BAD.items(), strict=True):
        assert code != 0
        assert re.search(f"error: .*{name}.yaml .*{sentence}", line), line


def test_every_command_with_a_config_refuses_a_file_that_holds_itself(bad):
    own, base, task = bad / "itself.yaml", EXPERIMENTS / "base.yaml", EXPERIMENTS / "task" / "phantom.yaml"
    codes, said = answers([
        ["fit", f"--config={own}"],
        ["fit", f"--config={base}", f"--config={own}"],
        ["fit", "-c", own],
        ["fit", f"--config={task}", f"--config={own}"],
        ["fit", f"--config={base}", f"--trainer={own}"],  # jsonargparse reads a file in place of a section too
        ["fit", f"--config={base}", "--trainer={callbacks: &a [*a]}"],
        ["evaluate", "--encoder=untrained", f"--config={own}"],
        ["compare", f"--config={own}"],
        ["paper", f"--config={own}"],
    ])  # fmt: skip
    assert all(codes)
    assert all("write the value out in its place" in line for line in said), said


def test_every_file_of_the_experiments_is_read():
    files = sorted(EXPERIMENTS.rglob("*.yaml"))
    assert len(files) > 20
    for path in files:
        assert read_config(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match=f"cannot read {re.escape(str(path))}: give an existing YAML file"):
            read_config(path)
