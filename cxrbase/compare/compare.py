"""A comparison from plan to report: prepare the images once, run what is missing, write down whatever there is."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from cxrbase.compare.board import Place, forget_failures, lay_out
from cxrbase.compare.collect import collect
from cxrbase.compare.cost import build
from cxrbase.compare.engines import Engine, execute
from cxrbase.compare.live import Board
from cxrbase.compare.plan import Plan
from cxrbase.compare.report import write_report
from cxrbase.compare.scoring import SCORES
from cxrbase.evaluation.task import read_task
from cxrbase.evaluation.task_data import load_task_data
from cxrbase.evaluation.task_images import open_images
from cxrbase.sizes import longest

logger = logging.getLogger(__name__)


def compare(plan: Plan, *, out: str | Path, engine: Engine = "local", jobs: int | None = None) -> dict[str, Any]:
    """Runs what has no result yet and writes results and report, also when stopped halfway.

    Args:
        plan: What to compare.
        out: Folder of comparisons; this one gets a folder of its name in it.
        engine: Where cells run.
        jobs: Cells at once on this machine; None takes one per GPU, or one per two CPU cores.

    Returns:
        What results.json holds.
    """
    root = Path(out) / plan.name
    data = _prepare(plan, root)
    places = lay_out(plan, root, data=data)
    forget_failures(places)
    _say(places)
    try:
        with Board(places) as board:
            execute(places, engine=engine, jobs=jobs, tick=board.tick)
    finally:
        content = collect(plan, places, root, data=data)
        write_report(content, places, root / "report.html")
        logger.info("report: %s", root / "report.html")
    return content


def _prepare(plan: Plan, root: Path) -> str:
    """Makes and decodes the images before several cells would at once, and returns their fingerprint."""
    _, data = build(plan.cells()[-1].settings)
    data.prepare_data()
    data.setup("fit")
    for path in plan.tasks:
        cache, size, read = root / SCORES / "canvas", 2 * longest(data.image_size), data.store.reading
        open_images(load_task_data(read_task(path)), size=size, read=read, cache_dir=cache, option="--out")
    return str(data.manifest.images_hash(np.arange(len(data.manifest))))


def _say(places: list[Place]) -> None:
    done = sum(place.state() == "done" for place in places)
    logger.info("%d cells, %d of them done already", len(places), done)
