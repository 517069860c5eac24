"""Reads the results of finished fine-tuning runs, so that runs can be compared in pairs like encoders."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cxrbase.errors import ConfigError
from cxrbase.evaluation.suite.results import Result, read_results

# In place of what was fitted and how, which may differ between models that are compared.
FINE_TUNED = "fine-tuned"


def read_runs(texts: Sequence[str]) -> list[Result]:
    """Reads the results of runs of `cxrbase fit` on a task.

    Args:
        texts: Run folders, or `<name>=<run folder>`; runs of one name and task are its seeds.

    Raises:
        ConfigError: A folder holds no such result, two runs cannot be told apart, or no two are of one task.
    """
    found = {text: _read(text) for text in texts}
    held: dict[tuple[str, str, int], str] = {}
    for text, result in found.items():
        task, name, seed = result.row["task"]["name"], result.row["encoder"]["name"], result.row["seed"]
        if (first := held.setdefault((task, name, seed), text)) != text:
            raise ConfigError(
                f"{first} and {text} are both called {name} and have the seed {seed}: name them, as in <name>=<run>"
            )
    names = {task: {name for other, name, _ in held if other == task} for task, _, _ in held}
    if max(map(len, names.values())) < 2:
        raise ConfigError(f"--results needs at least two runs of one task, got {', '.join(texts)}")
    return list(found.values())


def _read(text: str) -> Result:
    name, separator, place = text.partition("=")
    named = bool(separator) and "/" not in name
    folder = Path(place if named else text)
    results = read_results(folder / "results")
    if len(results) != 1 or "best_epoch" not in results[0].row:
        raise ConfigError(f"{folder} is not a finished run of cxrbase fit on a task: give the folder that holds model/")
    row = results[0].row
    encoder = row["encoder"] | {"name": name if named else folder.resolve().name}
    return replace(results[0], row=row | {"encoder": encoder, "protocol": FINE_TUNED, "protocol_text": FINE_TUNED})
