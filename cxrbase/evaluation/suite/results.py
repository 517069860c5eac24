"""Result rows: a JSON file per encoder, task, protocol and seed, with the numbers needed to compare them."""

import hashlib
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import cxrbase
from cxrbase.errors import ConfigError
from cxrbase.whole_files import written_whole

Floats = npt.NDArray[np.float64]

_FORMAT = 3  # changes when the same scores would be written otherwise


@dataclass(frozen=True, eq=False)
class Result:
    """One row and the numbers behind it.

    Args:
        row: Plain numbers and words; see `score_task` for the fields.
        logits: (N, K) of the test images, before calibration; NaN columns for classes that could not be learnt.
        probabilities: (N, K) calibrated.
        labels: (N, K), 1 present, 0 absent, NaN unknown.
        patients: (N,) a number for each patient, which tells nobody who it is.
        macro: (R + 1,) by metric, mean over the classes or of all together: on all patients, then on each resample.
    """

    row: dict[str, Any]
    logits: Floats
    probabilities: Floats
    labels: Floats
    patients: npt.NDArray[np.int64]
    macro: dict[str, Floats]


def write_result(result: Result, folder: Path) -> Path:
    """Writes `<name>.json` and `<name>.npz` into a folder and returns the former; both appear whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{row_name(result.row)}.json"
    arrays = {name: getattr(result, name) for name in ("logits", "probabilities", "labels", "patients")}
    arrays |= {f"macro_{name}": values for name, values in result.macro.items()}
    with written_whole(path.with_suffix(".npz")) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    # Last, because a row that is there means that all of it is.
    with written_whole(path) as part:
        part.write_text(json.dumps(result.row, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def read_result(path: Path) -> Result:
    """Reads what `write_result` wrote, given the JSON file; ConfigError where it is damaged or not one."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        with np.load(path.with_suffix(".npz")) as arrays:
            table = {name: arrays[name] for name in arrays.files}
        macro = {name.removeprefix("macro_"): table[name] for name in table if name.startswith("macro_")}
        names = ("logits", "probabilities", "labels", "patients")
        logits, probabilities, labels, patients = (table[name] for name in names)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{path} cannot be read as a result: remove it and run again ({error})") from error
    return Result(row, logits, probabilities, labels, patients, macro)


def read_results(folder: Path, *, task: str = "", encoder: str = "") -> list[Result]:
    """The results of a folder, sorted by name: all, or those of a task and an encoder."""
    named = f"{file_part(task)}__{file_part(encoder)}__*.json" if task else "*.json"
    return [read_result(path) for path in sorted(folder.glob(named))]


def row_name(row: dict[str, Any]) -> str:
    """File name of a row, without a suffix."""
    parts = row["task"]["name"], row["encoder"]["name"], row["protocol"], f"seed{row['seed']}"
    return "__".join(file_part(str(part)) for part in parts)


def file_part(name: str) -> str:
    """A name as it stands in the name of a file."""
    return re.sub(r"[^A-Za-z0-9.%-]+", "_", name)


def row_key(**parts: Any) -> str:
    """Changes with anything that could change a row."""
    text = json.dumps({"version": cxrbase.__version__, "format": _FORMAT, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def git_commit() -> str | None:
    """Commit of the source tree that runs, with `+` where files differ from it; None outside a git checkout."""
    folder = Path(cxrbase.__file__).parent
    answers = []
    for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=20)  # noqa: S603, S607
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return None
        answers.append(done.stdout.strip())
    return answers[0] + ("+" if answers[1] else "")
