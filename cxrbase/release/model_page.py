"""The card of a fine-tuned model: what it was asked, how it did, and what it can and cannot warn of."""

from collections.abc import Iterator
from typing import Any

from cxrbase.evaluation.lateral_check import in_words
from cxrbase.release.card import NOT_FOR_DIAGNOSIS
from cxrbase.release.doubt import unproven
from cxrbase.release.markdown import count, interval, number, table

_MODES = {
    "finetune": "An encoder of which all weights were fitted to the task",
    "probe": "A linear probe on a frozen encoder",
    "attentive": "An attentive probe on a frozen encoder",
}


def model_page(card: dict[str, Any]) -> str:
    """Markdown, without a path, patient or image, of what model.json says.

    Args:
        card: Of `Model`.
    """
    task = card["task"]
    parts = [
        f"# {task.get('title') or task['name']}",
        NOT_FOR_DIAGNOSIS,
        f"{_MODES[card['mode']]}, timm `{card['encoder']['timm_name']}`; for `cxrbase predict` and `cxrbase explain`.",
        *_data(card),
        *_scores(card),
        *_warnings(card),
    ]
    return "\n\n".join(parts) + "\n"


def _data(card: dict[str, Any]) -> Iterator[str]:
    yield "## Data"
    rows = [(split, count(part["images"]), count(part["patients"])) for split, part in card["counts"].items()]
    yield table(("Split", "Images", "Patients"), rows)
    yield f"Views: {', '.join(card['task']['views']) or 'all'}. No patient is in two splits."


def _scores(card: dict[str, Any]) -> Iterator[str]:
    yield "## Results on test patients"
    metrics = card["metrics"]
    thresholds = dict(zip(card["classes"], card["thresholds"], strict=True))
    rows = [
        (name, interval(score), number(thresholds.get(name))) for name, score in metrics["auroc"]["per_class"].items()
    ]
    yield table(("Finding", "AUROC, 95 % interval over patients", "Threshold chosen by validation"), rows)
    if doubtful := unproven(card):
        yield f"**Not shown to be better than chance on these patients:** {', '.join(doubtful)}. Do not rely on them."


def _warnings(card: dict[str, Any]) -> Iterator[str]:
    yield "## What it warns of"
    yield f"Lateral images: {in_words(card.get('lateral_check'))}."
    yield (
        "Images farther from the training images than 99 % of the validation images are called unlike them, and pixels "
        "tell of inverted, blank and small images. Neither finds every odd image."
    )
    if card.get("warnings"):
        yield "\n".join(f"- {text}" for text in card["warnings"])
