"""Reuses the finished pretraining of an earlier cell, so that a new label or task only needs new scores."""

import os
import shutil
from pathlib import Path

from cxrbase.compare.board import SPEC, read_json

RUN, COST, MEMORY = "run", "cost.json", "memory.json"


def take_over(folder: Path) -> None:
    """Copies the run of another cell whose pretraining was the same in all; its checkpoints stay behind.

    Args:
        folder: Folder of a cell, which keeps a run of its own where it has one.
    """
    wanted = (read_json(folder / SPEC) or {}).get("pretraining")
    for spec in sorted(folder.parent.glob(f"*/{SPEC}")):
        finished = (spec.parent / RUN / "summary.json").is_file() and (spec.parent / COST).is_file()
        if (folder / RUN).exists() or not finished or (read_json(spec) or {}).get("pretraining", "") != wanted:
            continue
        part = folder / f".{RUN}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(spec.parent / RUN, part, ignore=shutil.ignore_patterns("*.ckpt", "map.png"))
        for name in (COST, MEMORY):
            if (spec.parent / name).is_file():
                shutil.copy(spec.parent / name, folder / name)
        os.replace(part, folder / RUN)
