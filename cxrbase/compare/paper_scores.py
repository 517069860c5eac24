"""Scores the given encoders on all tasks that have images, with the evaluation suite on identical splits."""

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxrbase.compare.paper_encoders import networks
from cxrbase.compare.paper_plan import Paper
from cxrbase.evaluation.suite.results import Result
from cxrbase.evaluation.suite.score_encoder import score_encoder
from cxrbase.evaluation.task import Task, read_tasks
from cxrbase.evaluation.task_data import load_task_data, without_images

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """What was scored.

    Args:
        tasks: Every task by its file.
        absent: Why a task was not scored, by its file.
        results: By name of the task and of the encoder, a list for each of its trainings.
    """

    tasks: dict[str, Task]
    absent: dict[str, str]
    results: dict[tuple[str, str], list[list[Result]]] = field(default_factory=lambda: defaultdict(list))


def score(plan: Paper, cards: Mapping[str, dict[str, Any]], *, out: Path, canvas: Path, device: str) -> Scores:
    """Scores what an earlier run did not.

    Args:
        plan: Encoders and tasks.
        cards: Of `read_cards`.
        out: Folder of the suite's rows and features.
        canvas: Folder of decoded images.
        device: Where encoders run.

    Raises:
        ConfigError: A task file is missing or wrong, or two tasks have one name.
        ManifestError: The images of a task are there and malformed.
    """
    tasks = read_tasks(plan.tasks)
    absent = without_images(tasks)
    for path, reason in absent.items():
        logger.warning("%s is not drawn: %s", tasks[path].name, reason)
    data = [load_task_data(task) for path, task in tasks.items() if path not in absent]
    scores = Scores(tasks, absent)
    for slot in plan.given if data else []:
        ours = plan.ours is not None and slot.name == plan.ours.name
        for seeds, encoder in networks(slot, cards[slot.name], plan.seeds):
            settings = plan.settings(few=ours, seeds=seeds)
            for one in data:
                found = score_encoder(
                    encoder, one, settings, out=out, canvas=canvas, device=device, bad_option="--max_bad"
                )
                scores.results[one.task.name, slot.name].append(found)
    return scores
