"""The model card of a fine-tuned model: what it was made of, its scores, its warnings, and its terms."""

from collections.abc import Iterator
from typing import Any

from cxrbase.evaluation.lateral_check import in_words
from cxrbase.release.card_sections import (
    DATA_STATEMENT,
    NOT_FOR_DIAGNOSIS,
    citation,
    compute,
    front,
    group_table,
    network_rows,
    source_table,
    subgroups,
)
from cxrbase.release.doubt import unproven
from cxrbase.release.markdown import count, interval, number, table
from cxrbase.release.run_facts import RunFacts, part_of, recorded_groups, recorded_sources

_MODES = {
    "finetune": "An encoder of which all weights were fitted to the task",
    "probe": "A linear probe on a frozen encoder",
    "attentive": "An attentive probe on a frozen encoder",
}


def model_page(card: dict[str, Any], *, licence: str | None = None, encoder: RunFacts | None = None) -> str:
    """Writes the card of a fine-tuned model.

    Args:
        card: Of `Model`.
        licence: Name of the licence of the weights, whose text is in LICENSE; None where nobody has chosen one.
        encoder: The run that the encoder is of; None where it is of others.

    Returns:
        Markdown, without a path, patient or image.
    """
    task = card["task"]
    parts = [
        front(licence or "unknown", "image-classification", library="cxrbase"),
        f"# {task.get('title') or task['name']}",
        NOT_FOR_DIAGNOSIS,
        f"{_MODES[card['mode']]}, timm `{card['encoder']['timm_name']}`; for `cxrbase predict` and `cxrbase explain`.",
        "## Use",
        "```sh\ncxrbase predict --model PATH/TO/THIS/FOLDER IMAGES... --out findings.csv\n```",
        *_licence(licence),
        "## Network",
        table(("", ""), network_rows(card["encoder"])),
        *_data(card),
        *_pretraining(encoder or RunFacts()),
        *_training(card),
        *_scores(card),
        *_warnings(card),
        *_limits(),
        *citation(),
        "The encoder has authors too: cite it as they ask.",
    ]
    return "\n\n".join(parts) + "\n"


def _licence(licence: str | None) -> Iterator[str]:
    yield "## Licence of the weights"
    if licence is None:
        yield (
            "None was chosen (`cxrbase fit --licence`), so nobody but its maker may pass this model on. Terms of the "
            "encoder's weights and of the images' owners hold for it."
        )
    else:
        yield (
            f"{licence}; the text is in `LICENSE`. The terms of the encoder's weights and of the images take "
            "precedence."
        )


def _data(card: dict[str, Any]) -> Iterator[str]:
    yield "## Data"
    record = part_of(card, "data")
    if sources := recorded_sources(record):
        yield source_table(sources)
    else:
        yield "The sources of its images are not recorded."
    rows = [(split, count(part["images"]), count(part["patients"])) for split, part in card["counts"].items()]
    yield table(("Split", "Images", "Patients"), rows)
    yield f"Views: {', '.join(card['task']['views']) or 'all'}. No patient is in two splits."
    if groups := recorded_groups(record):
        yield group_table(groups)
    yield DATA_STATEMENT


def _pretraining(facts: RunFacts) -> Iterator[str]:
    yield "## Pretraining of the encoder"
    summary = facts.summary
    if not summary:
        yield "Not recorded: ask the authors of the encoder."
        return
    yield table(("", ""), [
        ("Objective", str(summary.get("objective", "not recorded"))),
        ("Images seen", count(summary.get("images_seen"))),
        ("Compute", compute(summary)),
    ])  # fmt: skip
    yield source_table(facts.sources) if facts.sources else "The images that it was pretrained on are not recorded."


def _training(card: dict[str, Any]) -> Iterator[str]:
    yield "## Training"
    settings, spent = part_of(card, "settings"), part_of(card, "compute")
    yield table(("", ""), [
        ("Learnt from", f"{count(card.get('train_images'))} images"),
        ("Epochs", f"{count(settings.get('epochs'))}, of which validation chose {count(card.get('best_epoch'))}"),
        ("Images per step and device", count(settings.get("batch_size"))),
        ("Learning rate per 256 images", f"{settings.get('lr', 'not recorded')}"),
        ("Parameters", count(spent.get("parameters"))),
        ("Compute", compute(spent)),
        ("Version", str(card.get("version", "not recorded"))),
    ])  # fmt: skip


def _scores(card: dict[str, Any]) -> Iterator[str]:
    yield "## Results on test patients"
    metrics = card["metrics"]
    thresholds = dict(zip(card["classes"], card["thresholds"], strict=True))
    rows = [
        (name, interval(score), number(thresholds.get(name))) for name, score in metrics["auroc"]["per_class"].items()
    ]
    yield table(("Finding", "AUROC, 95 % interval over patients", "Threshold chosen by validation"), rows)
    if unlearnt := [name for name in card["classes"] if name not in card.get("learnt", card["classes"])]:
        names = ", ".join(unlearnt)
        yield f"**Not learnt, as the training images could not teach it:** {names}. No probability is given."
    if doubtful := unproven(card):
        yield f"**Not shown to be better than chance on these patients:** {', '.join(doubtful)}. Do not rely on them."
    yield from subgroups(part_of(card, "subgroups"), scored="the model")


def _warnings(card: dict[str, Any]) -> Iterator[str]:
    yield "## What it warns of"
    yield f"Lateral images: {in_words(card.get('lateral_check'))}."
    yield (
        "Images farther from the training images than 99 % of the validation images are called unlike them, and "
        "inverted, blank and small images are recognised by their pixels. Neither finds every odd image."
    )
    if card.get("warnings"):
        yield "\n".join(f"- {text}" for text in card["warnings"])


def _limits() -> Iterator[str]:
    yield "## Limits"
    yield (
        "Scores, probabilities and thresholds hold for images like those above. Other scanners, ages, views, readers' "
        "labels and disease prevalence shift them, and simulated radiographs say nothing about patients. Nothing was "
        "tested prospectively."
    )
