"""The model card of an encoder: what it is, what it was made of, its scores, and what it must not be used for."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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
from cxrbase.release.markdown import count, interval, number, table
from cxrbase.release.run_facts import RunFacts, part_of, read_run

_USE = {
    "timm": """import timm
model = timm.create_model("local-dir:PATH/TO/THIS/FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
# image: a PIL image of mode L, bone bright, decoded as preprocessing.json says
tokens = model.forward_features(transform(image)[None])""",
    "hf": """from transformers import AutoImageProcessor, AutoModel
model = AutoModel.from_pretrained("PATH/TO/THIS/FOLDER")
processor = AutoImageProcessor.from_pretrained("PATH/TO/THIS/FOLDER")
# image: a PIL image of mode L, bone bright, decoded as preprocessing.json says
tokens = model(**processor(image, return_tensors="pt")).last_hidden_state""",
    "onnx": """import onnxruntime
session = onnxruntime.InferenceSession("encoder.onnx")
# images: float32 (B, 1, H, W), prepared as preprocessing.json says
features, patch_tokens = session.run(None, {"images": images})""",
    "torch": """import torch
model = torch.export.load("encoder.pt2").module()
# images: float32 (B, 1, H, W), prepared as preprocessing.json says
features, patch_tokens = model(images)""",
}


def model_card(run: Path, card: dict[str, Any], *, licence: str, export: dict[str, Any] | None = None) -> str:
    """Writes the card of an encoder from its run.

    Args:
        run: Run folder; of anything else the card says that the training is not recorded.
        card: Description of the encoder, as in encoder.json.
        licence: Name of the licence of the weights.
        export: What the check of the export measured.

    Returns:
        Markdown with the front matter that model hubs read. It names no path, patient or image.
    """
    facts = read_run(run)
    parts = [
        front(licence, "self-supervised", library="timm"),
        f"# Chest radiograph encoder, {card['timm_name']}",
        NOT_FOR_DIAGNOSIS,
        *_network(card, export or {}),
        *_use(card),
        *_data(facts),
        *_training(facts, card),
        *_results(facts),
        *_limits(),
        *citation(),
    ]
    return "\n\n".join(parts) + "\n"


def _network(card: dict[str, Any], export: dict[str, Any]) -> Iterator[str]:
    yield "## Network"
    rows = network_rows(card)
    rows.append(("Features", str(card.get("features", "class token and mean of the patch tokens"))))
    if export:
        rows.append(
            (
                "Checked",
                f"features differ from the original's by {export['max_difference']:.1e} of the largest, "
                f"{export['checked_with']}" + (f", opset {export['opset']}" if "opset" in export else ""),
            )
        )
    yield table(("", ""), rows)
    yield "The exact steps from a file to the input are in `preprocessing.json`; checksums are in `SHA256SUMS`."


def _use(card: dict[str, Any]) -> Iterator[str]:
    snippet = _USE.get(card.get("exported_to", ""))
    yield "## Use"
    if snippet:
        yield f"```python\n{snippet}\n```"
    yield '```python\nimport cxrbase\nmodel = cxrbase.load_encoder("PATH/TO/THIS/FOLDER")\n```'


def _data(facts: RunFacts) -> Iterator[str]:
    yield "## Data"
    if facts.sources:
        yield source_table(facts.sources)
        used = facts.config.get("data", {}).get("pretrain_on", ["train"])
        yield f"Pretrained on the splits: {', '.join(map(str, used))}. No label was used in pretraining."
    else:
        yield "The images that it was trained on are not recorded."
    if facts.groups:
        yield group_table(facts.groups)
    yield DATA_STATEMENT


def _training(facts: RunFacts, card: dict[str, Any]) -> Iterator[str]:
    yield "## Training"
    summary = facts.summary
    if not summary:
        objective, images = card.get("objective"), card.get("images_seen")
        said = f"Objective {objective}, {images:,} images seen. " if objective and images else ""
        yield f"{said}The run is not recorded."
        return
    rows = [
        ("Objective", str(summary.get("objective", "not recorded"))),
        ("Parameters", count(summary.get("parameters"))),
        ("Images seen", count(summary.get("images_seen"))),
        ("Steps", count(summary.get("steps"))),
        ("Compute", compute(summary)),
        ("Loss, first and last", f"{number(summary.get('loss_first'))}, {number(summary.get('loss_last'))}"),
        ("Version", str(summary.get("version", "not recorded"))),
    ]
    yield table(("", ""), rows)


def _results(facts: RunFacts) -> Iterator[str]:
    probe = facts.summary.get("probe")
    yield "## Results"
    if not isinstance(probe, dict) or not isinstance(probe.get("linear"), dict):
        yield "No score is recorded."
        return
    yield (
        f"Macro AUROC of frozen features on {probe.get('n_test')} test images, with 95 % intervals over patients; "
        f"{probe.get('n_train')} labelled images to learn from. The test images chose nothing."
    )
    kinds = [kind for kind in ("linear", "knn") if isinstance(probe.get(kind), dict)]
    names = {"pretrained": "Pretrained", "start": "Start", "random_init": "Untrained"}
    # Of a run that did not begin with random weights.
    shown = [name for name in names if name != "start" or any("start" in probe[kind] for kind in kinds)]
    rows = [(kind, *(interval(probe[kind].get(which)) for which in shown)) for kind in kinds]
    yield table(("Probe", *(names[which] for which in shown)), rows)
    yield table(
        ("Finding (linear)", "AUROC, 95 % interval over patients"),
        list(_findings(part_of(probe["linear"], "pretrained"))),
    )
    yield from subgroups(part_of(probe, "subgroups"), scored="the linear probe")


def _findings(score: dict[str, Any]) -> Iterator[Sequence[str]]:
    ends = part_of(score, "per_class_interval")  # records of earlier versions have none
    for name, value in part_of(score, "per_class").items():
        pair = ends.get(name)
        both = f" [{number(pair[0])}, {number(pair[1])}]" if isinstance(pair, list) and len(pair) == 2 else ""
        yield name, number(value) + both


def _limits() -> Iterator[str]:
    yield "## Limits"
    yield (
        "Scores hold for images like those above. Other scanners, ages, views or readers' labels shift them, and "
        "simulated radiographs say nothing about patients. The encoder has no notion of uncertainty; nothing was "
        "tested prospectively. It does not tell lateral images from frontal ones: the card of a model that is "
        "fine-tuned from it says whether that model does."
    )
