"""Writes an audit's findings as Markdown and HTML for people, and as JSON and CSV for programs."""

import csv
import io
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cxrbase.data.audit_align import SIDE
from cxrbase.data.audit_pixels import SmallImages
from cxrbase.data.manifest_exclusions import EXCLUSION_COLUMNS
from cxrbase.errors import DecodeError, ShardError
from cxrbase.report_parts import markdown_table, markdown_text, png_address, rendered

_LISTED = 20
_PICTURED = 12


@dataclass(frozen=True)
class Section:
    """A heading, a sentence, a table, and images to show below it.

    Args:
        title: Heading.
        text: What was looked for and what was seen.
        header: Names of the columns of the table.
        rows: Cells.
        pictures: For each picture, the rows of the images that are shown side by side.
    """

    title: str
    text: str
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    pictures: tuple[tuple[int, ...], ...] = ()


def write_reports(
    out: Path, sections: list[Section], result: dict[str, Any], excluded: list[dict[str, str]], images: SmallImages
) -> None:
    """Writes report.md, report.html, audit.json and exclude.csv to a folder that exists."""
    (out / "report.md").write_text(_markdown(sections), encoding="utf-8")
    (out / "report.html").write_text(_html(sections, images), encoding="utf-8")
    (out / "audit.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with (out / "exclude.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, EXCLUSION_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(excluded)


def _markdown(sections: list[Section]) -> str:
    lines = ["# Audit", ""]
    for section in sections:
        lines += [f"## {section.title}", "", markdown_text(section.text), ""]
        if section.rows:
            rows = ([markdown_text(cell) for cell in row] for row in section.rows[:_LISTED])
            lines += [markdown_table(section.header, rows), "", *_more(section)]
    return "\n".join(lines).rstrip() + "\n"


def _more(section: Section) -> list[str]:
    left = len(section.rows) - _LISTED
    return [f"{left} more are in audit.json.", ""] if left > 0 else []


def _html(sections: list[Section], images: SmallImages) -> str:
    pictures = [_pictures(section, images) for section in sections]
    facts = {"sections": sections, "pictures": pictures, "listed": _LISTED, "side": SIDE}
    return rendered(files("cxrbase.data") / "templates" / "audit_report.html.j2", facts)


def _pictures(section: Section, images: SmallImages) -> list[dict[str, str]]:
    """Small images side by side, without those that cannot be read any more."""
    found = []
    for rows in section.pictures[:_PICTURED]:
        try:
            picture = np.concatenate([images(row) for row in rows[:4]], axis=1)
        except (DecodeError, ShardError):
            continue
        data = io.BytesIO()
        Image.fromarray(picture).save(data, "PNG", optimize=True)
        title = " | ".join(images.names[row] for row in rows[:4])
        found.append({"image": png_address(data.getvalue()), "title": title})
    return found
