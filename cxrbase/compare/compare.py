"""Runs a comparison from plan to report: prepares images once, runs what is missing, reports what there is."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxrbase.compare.board import Place, forget_failures, lay_out
from cxrbase.compare.collect import collect
from cxrbase.compare.engines import Engine, execute
from cxrbase.compare.inputs import prepare, without_absent
from cxrbase.compare.live import Board
from cxrbase.compare.plan import Plan
from cxrbase.compare.report import write_report
from cxrbase.compare.stop_signals import taken_as_ctrl_c

logger = logging.getLogger(__name__)


def compare(
    plan: Plan,
    *,
    out: str | Path,
    engine: Engine = "local",
    jobs: int | None = None,
    slurm: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Runs what has no result yet and writes results and report, also when stopped halfway by any signal but SIGKILL.

    Args:
        plan: What to compare.
        out: Folder of comparisons; this one gets a folder of its name in it.
        engine: Where cells run.
        jobs: Cells at once on this machine; None takes one per GPU, or one per CPU core.
        slurm: Parameters of submitit for the engine slurm, in place of those found.

    Returns:
        What results.json holds.
    """
    with taken_as_ctrl_c():
        return _compare(plan, Path(out) / plan.name, engine=engine, jobs=jobs, slurm=slurm)


def _compare(plan: Plan, root: Path, **where: Any) -> dict[str, Any]:
    scored, absent = without_absent(plan)
    for sentence in absent:
        logger.warning(sentence)
    inputs = prepare(scored, root)
    places = lay_out(scored, root, data=inputs.pretraining, tasks=inputs.tasks)
    forget_failures(places)
    _say(places)
    try:
        with Board(places) as board:
            execute(places, tick=board.tick, **where)
    finally:
        content = collect(plan, places, root, data=inputs.whole, absent=absent)
        write_report(content, places, root / "report.html")
        logger.info("report: %s", root / "report.html")
    return content


def _say(places: list[Place]) -> None:
    done = sum(place.state() == "done" for place in places)
    logger.info("%d cells, %d of them done already", len(places), done)
