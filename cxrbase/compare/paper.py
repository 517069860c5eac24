"""Makes figures 2 to 4: scores what is missing, then writes numbers, figures and page."""

import logging
from pathlib import Path
from typing import Any

from cxrbase.compare.board import write_json
from cxrbase.compare.collect import environment
from cxrbase.compare.paper_encoders import read_cards
from cxrbase.compare.paper_figures import write_figures
from cxrbase.compare.paper_numbers import content
from cxrbase.compare.paper_page import write_csv, write_page
from cxrbase.compare.paper_plan import Paper
from cxrbase.compare.paper_scores import score
from cxrbase.compare.plan import code_version
from cxrbase.compare.scoring import CANVAS, SCORES

logger = logging.getLogger(__name__)


def paper(plan: Paper, *, out: str | Path, device: str = "cpu") -> dict[str, Any]:
    """Draws the figures, and returns what results.json holds.

    Args:
        plan: Encoders, tasks and seeds.
        out: Folder of papers; this one gets a folder of its name in it.
        device: Where encoders run.
    """
    root = Path(out) / plan.name
    cards = read_cards(plan)
    # Another folder for other code, which may score otherwise; decoded images are the same for all.
    folder = root / SCORES
    scores = score(plan, cards, out=folder / code_version(), canvas=folder / CANVAS, device=device)
    found = content(plan, cards, scores) | {"environment": environment()}
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / "results.json", found)
    write_csv(found, root / "results.csv")
    for path in write_figures(found, root):
        logger.info("wrote %s", path)
    write_page(found, root / "paper.md")
    return found
