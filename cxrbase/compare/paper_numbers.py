"""The numbers of the paper's figures: scores with intervals, and our encoder against every other (Holm)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cxrbase.compare.paper_plan import FIGURES, ROLES, Paper
from cxrbase.compare.paper_scores import Scores
from cxrbase.compare.verdict import row_of, score_of
from cxrbase.evaluation.correction import correct, family_warnings
from cxrbase.evaluation.defined import unlike, usual_classes
from cxrbase.evaluation.protocols import Protocol
from cxrbase.evaluation.significance import hierarchical_difference
from cxrbase.evaluation.suite.results import Result

METRICS = {"auroc": "AUC", "accuracy": "ACC"}
# Where exactly one class is true; else each is asked for by itself, and the mean over them is taken.
_ONE_OF = {"accuracy": "top1_accuracy"}
Runs = list[np.ndarray[Any, Any]]  # for each training, (D, R + 1): by draw, on all test patients and on each resample
Trainings = Sequence[Sequence[Result]]


def content(plan: Paper, cards: Mapping[str, dict[str, Any]], scores: Scores) -> dict[str, Any]:
    """What results.json holds: encoders, tasks, what is missing, and the numbers of each figure."""
    said = {
        "name": plan.name,
        "ours": plan.ours.name if plan.ours else None,
        "few": plan.few,
        "seeds": plan.seeds,
        "resamples": plan.resamples,
        "threshold": plan.threshold,
        "encoders": [_encoder(slot, cards.get(slot.name)) for slot in plan.encoders],
        "tasks": [_task(path, plan, scores) for path in plan.tasks],
    }
    figures = {name: _figure(name, plan, scores) for name in FIGURES}
    limits = family_warnings(dict(family for figure in figures.values() for family in figure.pop("families")))
    return said | {
        "missing": missing(said),
        "warnings": [*_warnings(plan, scores), *_not_compared(plan, scores), *limits],
        "figures": figures,
    }


def missing(said: Mapping[str, Any]) -> list[str]:
    """A sentence for each baseline without weights and each task without images."""
    lines = [
        f"{one['name']} ({one['title']}) is missing: its weights are not given"
        for one in said["encoders"]
        if not one["given"]
    ]
    if said["ours"] is None:
        lines.append("no encoder pretrained on chest X-rays is given, so there is no curve of few labels and no test")
    return lines + [f"{one['name']} is missing: {one['absent']}" for one in said["tasks"] if one["absent"]]


def _encoder(slot: Any, card: Mapping[str, Any] | None) -> dict[str, Any]:
    kept = ("timm_name", "image_size", "format", "objective", "images_seen")
    about = {key: card[key] for key in kept if card and key in card}
    return {"name": slot.name, "role": slot.role, "title": ROLES[slot.role], "given": card is not None,
            "paths": slot.paths, "card": about}  # fmt: skip


def _task(path: str, plan: Paper, scores: Scores) -> dict[str, Any]:
    task = scores.tasks[path]
    about: dict[str, Any] = {"name": task.name, "title": task.title, "file": path, "absent": scores.absent.get(path)}
    for slot in plan.given:
        for result in _flat(scores.results.get((task.name, slot.name), []))[:1]:
            count = result.row["counts"]["test"]
            about |= {"test_images": count["images"], "test_patients": count["patients"]}
            about["majority"] = _majority(result, task.kind)
    return about


def _majority(result: Result, kind: str) -> float:
    """Accuracy of always answering what most test images are, mean over classes that are asked for by themselves."""
    if kind == "multiclass":
        counts = np.nansum(result.labels[np.nansum(result.labels, axis=1) == 1], axis=0)
        return float(counts.max() / max(counts.sum(), 1))
    share = np.nanmean(result.labels, axis=0)
    return float(np.nanmean(np.maximum(share, 1 - share)))


def _warnings(plan: Paper, scores: Scores) -> list[str]:
    trainings = {slot.name: len(plan.seeds) if slot.random else len(slot.paths) for slot in plan.given}
    alone = [name for name, count in trainings.items() if count == 1]
    said = [f"one training each of {', '.join(alone)}: no interval or p-value covers the spread between trainings"] * (
        len(alone) > 0
    )
    said += [
        f"{task}, {encoder}: {warning}" if "encoder" in warning else f"{task}: {warning}"
        for (task, encoder), trainings_of in scores.results.items()
        for result in _flat(trainings_of)
        if not Protocol.parse(result.row["protocol"]).drawn
        for warning in result.row["warnings"]
    ]
    return list(dict.fromkeys(said))


def _figure(name: str, plan: Paper, scores: Scores) -> dict[str, Any]:
    tasks = [scores.tasks[path].name for path in getattr(plan, name) if path not in scores.absent]
    shots = plan.shots if name == "figure4" else [plan.few]
    values, families = [], []
    for metric in METRICS:
        for task in tasks:
            values += list(_values(plan, scores, task, metric, shots))
        # What is asked with one amount of labels is one family of tests.
        for amount in [None, *shots] if plan.ours else []:
            family = [row for task in tasks for row in _differences(plan, scores, task, metric, amount)]
            correct(family)
            families.append((f"{name} {METRICS[metric]} {'all' if amount is None else amount}", family))
    absent = [scores.tasks[path].name for path in getattr(plan, name) if path in scores.absent]
    differences = [row for _, family in families for row in family]
    return {"tasks": tasks, "absent": absent, "values": values, "differences": differences, "families": families}


def _values(plan: Paper, scores: Scores, task: str, metric: str, shots: Sequence[int]) -> Iterable[dict[str, Any]]:
    for slot in plan.given:
        for amount in [None, *(shots if slot is plan.ours else [])]:
            trainings = _of(scores, task, slot.name, amount)
            measured = _measured(scores, task, metric)
            images = float(np.mean([result.row["train_images"] for result in _flat(trainings)]))
            about = {"task": task, "encoder": slot.name, "shots": amount, "metric": metric, "train_images": images}
            classes = {"classes": _classes(_flat(trainings), measured)}
            yield about | classes | _scored(_runs(trainings, measured))


def _scored(runs: Runs) -> dict[str, Any]:
    """Mean and interval of some runs, how many trainings (seeds) and draws there are, and the value of each."""
    if not runs:
        return {"seeds": 0, "draws": 0, "value": None, "low": None, "high": None, "by_seed": []}
    each = [float(value) for run in runs for value in run[:, 0]]
    return score_of(runs) | {"draws": len(runs[0]), "by_seed": each}


def _differences(plan: Paper, scores: Scores, task: str, metric: str, amount: int | None) -> Iterable[dict[str, Any]]:
    """Ours, learnt from an amount of labels, less every other encoder, learnt from all.

    Trainings are not paired, as those of one number have nothing in common. What learns from all labels is the same for
    every draw of few.
    """
    assert plan.ours is not None
    measured = _measured(scores, task, metric)
    for slot in (slot for slot in plan.given if slot.name != plan.ours.name):
        mine, its = _of(scores, task, plan.ours.name, amount), _of(scores, task, slot.name, None)
        one, two = _runs(mine, measured), _runs(its, measured)
        if one and two and not _apart(_flat(mine), _flat(its), measured):
            row = {"task": task, "metric": metric, "ours": plan.ours.name, "shots": amount, "against": slot.name}
            two = [np.repeat(run, len(one[0]), axis=0) for run in two]
            yield row | row_of(hierarchical_difference(one, two))


def _not_compared(plan: Paper, scores: Scores) -> Iterable[str]:
    """A sentence for each difference that would be one of means over different classes."""
    asked = [(task.name, metric, amount) for path, task in scores.tasks.items() if path not in scores.absent
             for metric in METRICS for amount in (None, *plan.shots)]  # fmt: skip
    for task, metric, amount in asked if plan.ours else []:
        assert plan.ours is not None
        mine = _of(scores, task, plan.ours.name, amount)
        for slot in (slot for slot in plan.given if slot.name != plan.ours.name):
            its = _of(scores, task, slot.name, None)
            if how := _apart(_flat(mine), _flat(its), _measured(scores, task, metric)):
                few = "all labels" if amount is None else f"{amount} labelled patients per class"
                yield (
                    f"{task}, {METRICS[metric]}: {plan.ours.name} with {few} is not compared with {slot.name}, as the "
                    f"means are over different classes ({how})"
                )


def _apart(one: Sequence[Result], two: Sequence[Result], metric: str) -> str:
    """How the classes of some runs differ from those of others, where any does."""
    usual = usual_classes(_classes([result], metric) for result in two)
    return next((how for result in (*one, *two) if (how := unlike(_classes([result], metric), usual))), "")


def _classes(results: Sequence[Result], metric: str) -> list[str]:
    """Classes that the mean is over in all of some results; none of a metric that is of all classes together."""
    found = [result.row["metrics"].get(metric, {}).get("classes", []) for result in results]
    return [name for name in found[0] if all(name in one for one in found)] if found else []


def _of(scores: Scores, task: str, encoder: str, shots: int | None) -> Trainings:
    """Results of each training of an encoder with one amount of labels, by seed of the draw."""
    name = Protocol(shots=shots).name
    return [
        sorted((one for one in results if one.row["protocol"] == name), key=lambda one: int(one.row["seed"]))
        for results in scores.results[task, encoder]
    ]


def _flat(trainings: Trainings) -> list[Result]:
    return [result for results in trainings for result in results]


def _measured(scores: Scores, task: str, metric: str) -> str:
    """What stands for a metric of the figures in the results of a task."""
    kind = next(one.kind for one in scores.tasks.values() if one.name == task)
    return _ONE_OF.get(metric, metric) if kind == "multiclass" else metric


def _runs(trainings: Trainings, metric: str) -> Runs:
    """Of each training that has the metric, (D, R + 1): the draws that all of them have it with.

    Top-1 accuracy needs scores of all classes.
    """
    found = []
    for results in trainings:
        known = [one for one in results if metric in one.macro and not np.isnan(one.macro[metric][0])]
        # With all labels there is no draw, and the seed may be that of the weights.
        found.append({one.row["seed"] * Protocol.parse(one.row["protocol"]).drawn: one.macro[metric] for one in known})
    found = [draws for draws in found if draws]
    common = [seed for seed in (found[0] if found else ()) if all(seed in draws for draws in found)]
    return [np.stack([draws[seed] for seed in common]) for draws in found] if common else []
