"""The page next to the figures: what is missing, the methods, and all numbers as Markdown and CSV."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrbase.compare.paper_figures import TITLES, label_of, p_text, pick
from cxrbase.compare.paper_numbers import METRICS
from cxrbase.evaluation.score_text import gap_text, score_text
from cxrbase.report_parts import markdown_table, markdown_text

Content = Mapping[str, Any]

_COLUMNS = ("figure", "kind", "task", "metric", "encoder", "shots", "against", "seeds", "draws", "train_images",
            "value", "low", "high", "p", "p_holm")  # fmt: skip


def write_csv(content: Content, path: Path) -> None:
    """Writes every score and difference, a row each; blank `shots` are all labels."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for name, figure in content["figures"].items():
            writer.writerows({"figure": name, "kind": "score"} | row for row in figure["values"])
            for row in figure["differences"]:
                about = {"figure": name, "kind": "difference", "encoder": row["ours"], "value": row["difference"]}
                writer.writerow(dict(row) | about)


def write_page(content: Content, path: Path) -> None:
    """Writes paper.md."""
    lines = [f"# {content['name']}: figures 2, 3 and 4", "", "## Missing", ""]
    lines += [f"- {sentence}" for sentence in content["missing"]] or ["Nothing."]
    lines += ["", "## How", "", *_how(content)]
    for name, title in TITLES.items():
        lines += ["", f"## {title}", "", f"![{title}]({name}.png)", "", *_scores(content, name), *_tests(content, name)]
    lines += ["", "## Read first", "", *(f"- {warning}" for warning in content["warnings"])]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _how(content: Content) -> list[str]:
    ours = pick(content["encoders"], name=content["ours"])
    said = label_of(ours, content) if ours else "none is given"
    return [
        "Every encoder is frozen and scored on the same splits by logistic regression on its features. With all labels "
        "the solution is unique, so there is one run for each file of weights, and one for each seed of an untrained "
        f"network. With few labels there are {len(content['seeds'])} draws, the same for all encoders and for each of "
        f"their trainings; regularisation, threshold (best {content['threshold']}) and temperature are chosen on the "
        "whole validation split even then. "
        f"Intervals (95 %) are of {content['resamples']} resamples of patients, and cover trainings and draws where "
        "there are several. p-values are of differences of our encoder to every other on the same patients, corrected "
        "by Holm over the encoders and tasks of a figure, metric and amount of labels. ACC is the share of right "
        "answers: of the likeliest class where an image has exactly one, otherwise of each finding at its threshold, "
        "and the mean over findings.",
        "",
        f"Our encoder: {said}.",
        "",
        markdown_table(
            ("encoder", "role", "weights"),
            [(markdown_text(one["name"]), markdown_text(one["title"]), _weights(one)) for one in content["encoders"]],
        ),
    ]


def _weights(encoder: Mapping[str, Any]) -> str:
    if not encoder["given"]:
        return "**missing**"
    card = encoder["card"]
    seen = f", {card['images_seen']:,} images seen" if card.get("images_seen") else ""
    return f"{markdown_text(', '.join(encoder['paths']))} ({card['timm_name']}, {card['image_size']} px{seen})"


def _scores(content: Content, name: str) -> list[str]:
    """Task x encoder, AUC and ACC."""
    values = content["figures"][name]["values"]
    rows = []
    for row in (row for row in values if row["metric"] == "auroc"):
        twin = pick(values, task=row["task"], encoder=row["encoder"], shots=row["shots"], metric="accuracy")
        assert twin is not None
        cells = [
            markdown_text(row["task"]),
            markdown_text(row["encoder"]),
            _labels(row["shots"]),
            str(row["seeds"]),
            str(row["draws"]),
            score_text(row),
            score_text(twin),
        ]
        rows.append(cells)
    table = markdown_table(("task", "encoder", "labels", "trainings", "draws", "AUC", "ACC"), rows)
    return [table] if values else ["No task of this figure has its images here."]


def _tests(content: Content, name: str) -> list[str]:
    rows: Sequence[Mapping[str, Any]] = content["figures"][name]["differences"]
    if not rows:
        return []
    cells = [
        (markdown_text(row["task"]), METRICS[row["metric"]], _labels(row["shots"]), markdown_text(row["against"]),
         gap_text(row), p_text(row))
        for row in rows
    ]  # fmt: skip
    head = ("task", "metric", "ours with", "less, with all labels", "difference", "p after Holm")
    return ["", markdown_table(head, cells)]


def _labels(shots: int | None) -> str:
    return "all" if shots is None else f"{shots} per class"
