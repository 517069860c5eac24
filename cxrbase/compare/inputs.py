"""The images and tasks that cells read, prepared once, and fingerprints of their content."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cxrbase.compare.cost import build_data
from cxrbase.compare.plan import Plan
from cxrbase.compare.scoring import CANVAS, SCORES, opening
from cxrbase.data.datamodule import CXRDataModule
from cxrbase.data.dataset import ImageStore
from cxrbase.data.manifest import Manifest
from cxrbase.data.reading import Reading
from cxrbase.data.selection import ImageTable
from cxrbase.data.shard_index import ShardIndex
from cxrbase.evaluation.suite.feature_store import data_hash
from cxrbase.evaluation.task import read_task, read_tasks
from cxrbase.evaluation.task_data import load_task_data, some_without_images
from cxrbase.evaluation.task_images import open_images
from cxrbase.sizes import longest
from cxrbase.weights_formats import SUFFIXES

_WEIGHTS = (*SUFFIXES, ".json")


@dataclass(frozen=True)
class Inputs:
    """Fingerprints of what cells read.

    Args:
        pretraining: Of images, labels, splits, lists and first weights, by the title of the cell.
        tasks: Of images, labels and splits of all tasks.
    """

    pretraining: dict[str, str]
    tasks: str

    @property
    def whole(self) -> str:
        """One fingerprint of everything."""
        return _digest([self.pretraining, self.tasks])


def without_absent(plan: Plan) -> tuple[Plan, list[str]]:
    """The plan with the tasks whose images are there, and a sentence on each of the others.

    Raises:
        ConfigError: There are no images of any task, or two tasks have one name.
    """
    tasks = read_tasks(plan.tasks)
    reasons = some_without_images(tasks)
    left = [path for path in tasks if path not in reasons]
    return replace(plan, tasks=left), [f"{tasks[path].name} is not scored: {why}" for path, why in reasons.items()]


def prepare(plan: Plan, root: Path) -> Inputs:
    """Makes and decodes all images before several cells would at once, and looks at what cells will read.

    Args:
        plan: The comparison.
        root: Folder of the comparison.

    Returns:
        Fingerprints, which are the same as long as a cell would read the same.
    """
    ways, places, pretraining = set(), {}, {}
    for cell in plan.cells():
        data = build_data(cell.settings)
        place = _place(data)
        if place not in places:
            data.prepare_data()
            data.setup("fit")
            places[place] = fingerprint(data.manifest, data.store)
        files = [*_lists(data), *_weights(cell.settings.get("model", {}).get("init_from"))]
        pretraining[cell.title] = _digest([places[place], files])
        ways.add((2 * longest(data.image_size), data.reading))
    return Inputs(pretraining, _digest({path: _task(plan, path, root / SCORES / CANVAS, ways) for path in plan.tasks}))


def fingerprint(table: ImageTable, images: ImageStore) -> str:
    """Fingerprint of images and of all that is known about them: labels, splits, patients.

    Args:
        table: One row per image.
        images: Their pixels.
    """
    if isinstance(table, ShardIndex):
        # It holds the checksum of each image beside its labels.
        with table.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    assert isinstance(table, Manifest)
    return _digest([table.fingerprint(), data_hash(table, images)])


def _place(data: CXRDataModule) -> tuple[str, ...]:
    """Where images come from and how they are decoded: cells that agree in it share them, whatever their views are."""
    side = data.canvas_size or 2 * longest(data.image_size)
    parts = (data.root, data.manifest_path, data.phantom, data.targets, data.reading, side, data.cache_dir)
    return tuple(str(part) for part in parts)


def _task(plan: Plan, path: str, canvas: Path, ways: Iterable[tuple[int, Reading]]) -> list[str]:
    data = load_task_data(read_task(path))
    stores = [open_images(data, size=side, read=read, cache_dir=canvas, **opening(plan))
              for side, read in sorted(ways, key=str)]  # fmt: skip
    return [fingerprint(data.manifest, stores[0]), data.label_checksum]


def _lists(data: CXRDataModule) -> list[str]:
    """The lists of images that pretraining leaves out."""
    return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in data.select.exclude or ()]


def _weights(init_from: str | None) -> list[Sequence[Any]]:
    """Size and time of the files that hold the weights to start from."""
    if init_from is None:
        return []
    path = Path(init_from.partition("=")[2] if init_from.startswith("timm:") else init_from)
    folder = path.parent if path.name == "encoder.json" else path
    files = sorted(folder.iterdir()) if folder.is_dir() else [path] if path.is_file() else []
    kept = [file for file in files if file.suffix in _WEIGHTS]
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in kept]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
