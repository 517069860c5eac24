"""Sections shared by the cards of encoders and of fine-tuned models."""

from collections.abc import Iterator, Sequence
from typing import Any

from cxrbase.data.reading import Reading
from cxrbase.release.markdown import count, interval, table
from cxrbase.release.run_facts import SourceCount, part_of

NOT_FOR_DIAGNOSIS = "This is research software. It is not a medical device and must not be used for diagnosis."
DATA_STATEMENT = (
    "Data statement: this folder holds weights and numbers. It holds no image, no reconstruction of one, and no "
    "identifier of a patient, study or file. Images of credentialed sources must be obtained from their "
    "owners; read what their terms say about models trained on them."
)
_NAMES = {"view_position": "view", "age": "age in years"}


def front(licence: str, *tags: str, library: str) -> str:
    """The front matter that model hubs read.

    Args:
        licence: SPDX name or expression, `other` or `unknown`.
        tags: Beside those of every model.
        library: What reads the folder.
    """
    # Hubs know single names; what else there is has two keys of its own.
    single = " " not in licence and not licence.startswith("LicenseRef-")
    named = [f"license: {licence.lower()}"] if single else ["license: other", f"license_name: {licence}"]
    lines = ["---", *named, "tags:", "- chest-x-ray", *(f"- {tag}" for tag in tags)]
    return "\n".join([*lines, "- vision-transformer", f"library_name: {library}", "---"])


def network_rows(card: dict[str, Any]) -> list[tuple[str, str]]:
    """What an encoder is and how it is fed, of its description."""
    size = card["image_size"]
    side = f"{size} x {size}" if isinstance(size, int) else f"{size[0]} x {size[1]}"
    options = {key: value for key, value in card["timm_args"].items() if key not in ("in_chans", "num_classes")}
    return [
        ("Architecture", f"timm `{card['timm_name']}` with `{options}`"),
        ("Input", f"one channel, {side} pixels, mean {card['mean']:g}, standard deviation {card['std']:g}"),
        ("Decoded with", str(Reading.of(card))),
        ("Brightness", str(card.get("intensity", "not recorded"))),
    ]


def source_table(sources: Sequence[SourceCount]) -> str:
    """Where images are from, how many, and under which terms."""
    return table(("Source", "Images", "Patients", "Licence of the images"), [_source_row(one) for one in sources])


def group_table(groups: dict[str, dict[str, tuple[int, int]]]) -> str:
    """How many images and patients were trained on, by variable and group."""
    return table(("Trained on, by", "Group", "Images", "Patients"), list(_group_rows(groups)))


def _source_row(source: SourceCount) -> Sequence[str]:
    told = ", ".join(f"{images:,} {split}" for split, images in source.images.items())
    return (source.title or source.name, told, f"{source.patients:,}", source.licence or "not known")


def _group_rows(groups: dict[str, dict[str, tuple[int, int]]]) -> Iterator[Sequence[str]]:
    for variable, sizes in groups.items():
        for group, (images, patients) in sizes.items():
            yield (_NAMES.get(variable, variable), group, f"{images:,}", f"{patients:,}")


def compute(summary: dict[str, Any]) -> str:
    """How long it took on what, of a record with wall_s, device, devices and precision."""
    seconds, devices = summary.get("wall_s"), summary.get("devices", 1)
    if not isinstance(seconds, int | float):
        return "not recorded"
    return f"{seconds:,.0f} s on {devices} x {summary.get('device', 'device')}, precision {summary.get('precision')}"


def subgroups(report: dict[str, Any], *, scored: str) -> Iterator[str]:
    """Scores by group of the test images, of a `subgroup_report`.

    Args:
        report: The report.
        scored: Whose score it is, such as `the linear probe`.
    """
    rows = [row for variable in report for row in _subgroup_rows(variable, part_of(report, variable))]
    if not rows:
        yield "Subgroups: no two groups of test images by sex, age, site, source, origin or view are recorded."
        return
    yield (
        f"By group of the test images: macro AUROC of {scored} over the findings that are defined in all "
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


def citation() -> Iterator[str]:
    """How to cite."""
    yield "## How to cite"
    yield (
        "Cite the software as its CITATION.cff says, the paper that it follows (CXRBase, "
        "https://arxiv.org/abs/2410.08861), and every data set above as its authors ask."
    )
