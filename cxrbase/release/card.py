"""The model card: what an encoder is, what it was made of, what it scored, and what it is not for."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cxrbase.data.reading import Reading
from cxrbase.release.markdown import count, interval, number, table
from cxrbase.release.run_facts import RunFacts, SourceCount, part_of, read_run

NOT_FOR_DIAGNOSIS = "This is research software. It is not a medical device and must not be used for diagnosis."

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

_NAMES = {"view_position": "view", "age": "age in years"}


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
        _front(licence),
        f"# Chest radiograph encoder, {card['timm_name']}",
        NOT_FOR_DIAGNOSIS,
        *_network(card, export or {}),
        *_use(card),
        *_data(facts),
        *_training(facts, card),
        *_results(facts),
        *_limits(),
        "## How to cite",
        "Cite the software as its CITATION.cff says, the paper that it follows (CXRBase, "
        "https://arxiv.org/abs/2410.08861), and every data set above as its authors ask.",
    ]
    return "\n\n".join(parts) + "\n"


def _front(licence: str) -> str:
    name = licence.lower()
    return (
        f"---\nlicense: {name}\ntags:\n- chest-x-ray\n- self-supervised\n- vision-transformer\nlibrary_name: timm\n---"
    )


def _network(card: dict[str, Any], export: dict[str, Any]) -> Iterator[str]:
    size = card["image_size"]
    side = f"{size} x {size}" if isinstance(size, int) else f"{size[0]} x {size[1]}"
    options = {key: value for key, value in card["timm_args"].items() if key not in ("in_chans", "num_classes")}
    yield "## Network"
    rows = [
        ("Architecture", f"timm `{card['timm_name']}` with `{options}`"),
        ("Input", f"one channel, {side} pixels, mean {card['mean']:g}, standard deviation {card['std']:g}"),
        ("Decoded with", str(Reading.of(card))),
        ("Brightness", str(card.get("intensity", "not recorded"))),
        ("Features", str(card.get("features", "class token and mean of the patch tokens"))),
    ]
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
        yield table(("Source", "Images", "Patients", "Licence of the images"), [_source_row(s) for s in facts.sources])
        used = facts.config.get("data", {}).get("pretrain_on", ["train"])
        yield f"Pretrained on the splits: {', '.join(map(str, used))}. No label was used in pretraining."
    else:
        yield "The images that it was trained on are not recorded."
    if facts.groups:
        yield table(("Trained on, by", "Group", "Images", "Patients"), list(_group_rows(facts.groups)))
    yield (
        "Data statement: this folder holds weights and numbers. It holds no image, no reconstruction of one, and no "
        "identifier of a patient, study or file. Images of credentialed sources must be got from their owners, "
        "and what their terms say of models trained on them is for you to read."
    )


def _source_row(source: SourceCount) -> Sequence[str]:
    told = ", ".join(f"{images:,} {split}" for split, images in source.images.items())
    return (source.title or source.name, told, f"{source.patients:,}", source.licence or "not known")


def _group_rows(groups: dict[str, dict[str, tuple[int, int]]]) -> Iterator[Sequence[str]]:
    for variable, sizes in groups.items():
        for group, (images, patients) in sizes.items():
            yield (_NAMES.get(variable, variable), group, f"{images:,}", f"{patients:,}")


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
        ("Compute", _compute(summary)),
        ("Loss, first and last", f"{number(summary.get('loss_first'))}, {number(summary.get('loss_last'))}"),
        ("Version", str(summary.get("version", "not recorded"))),
    ]
    yield table(("", ""), rows)


def _compute(summary: dict[str, Any]) -> str:
    seconds, devices = summary.get("wall_s"), summary.get("devices", 1)
    if not isinstance(seconds, int | float):
        return "not recorded"
    return f"{seconds:,.0f} s on {devices} x {summary.get('device', 'device')}, precision {summary.get('precision')}"


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
    rows = [(kind, *(interval(probe[kind].get(which)) for which in ("pretrained", "random_init"))) for kind in kinds]
    yield table(("Probe", "Pretrained", "Untrained"), rows)
    per_class = probe["linear"].get("pretrained", {}).get("per_class", {})
    yield table(("Finding (linear)", "AUROC"), [(name, number(value)) for name, value in per_class.items()])
    yield from _subgroups(part_of(probe, "subgroups"))


def _subgroups(report: dict[str, Any]) -> Iterator[str]:
    rows = [row for variable in report for row in _subgroup_rows(variable, part_of(report, variable))]
    if not rows:
        yield "Subgroups: no two groups of test images by sex, age, site, source, origin or view are recorded."
        return
    yield (
        "By group of the test images: macro AUROC of the linear probe over the findings that are defined in all "
        "groups, with 95 % intervals over patients. Best and worst were found on these images, so a gap is somewhat "
        "too large."
    )
    yield table(("Test images by", "Group", "Images", "AUROC"), rows)


def _subgroup_rows(variable: str, found: dict[str, Any]) -> Iterator[Sequence[str]]:
    name, groups, gap = _NAMES.get(variable, variable), part_of(found, "groups"), part_of(found, "gap")
    for group in groups:
        entry = part_of(groups, group)
        yield (name, group, count(entry.get("images")), interval(entry.get("auroc")))
    for group in found.get("too_few") or ():
        yield (name, str(group), "too few", "")
    if gap:
        yield (name, f"gap, {gap.get('best')} - {gap.get('worst')}", "", interval(gap))


def _limits() -> Iterator[str]:
    yield "## Limits"
    yield (
        "Scores hold for images like those above. Other scanners, ages, views or readers' labels shift them, and "
        "simulated radiographs say nothing about patients. The encoder has no notion of uncertainty; nothing was "
        "tested prospectively. It does not tell lateral images from frontal ones: the card of a model that is "
        "fine-tuned from it says whether that model does."
    )
