"""Writes an audit's findings as Markdown and HTML for people, and as JSON and CSV for programs."""

import base64
import csv
import html
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cxrbase.data.audit_align import SIDE
from cxrbase.data.audit_pixels import SmallImages
from cxrbase.data.manifest_exclusions import EXCLUSION_COLUMNS
from cxrbase.errors import DecodeError, ShardError

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
        lines += [f"## {section.title}", "", _plain(section.text), ""]
        if section.rows:
            lines += ["| " + " | ".join(section.header) + " |", "|" + "---|" * len(section.header)]
            lines += ["| " + " | ".join(_plain(cell) for cell in row) + " |" for row in section.rows[:_LISTED]]
            lines += ["", *_more(section)]
    return "\n".join(lines).rstrip() + "\n"


def _more(section: Section) -> list[str]:
    left = len(section.rows) - _LISTED
    return [f"{left} more are in audit.json.", ""] if left > 0 else []


def _plain(text: str) -> str:
    """Without what a file name could use to become markup."""
    text = html.escape(" ".join(text.split()), quote=False)
    return "".join("\\" + sign if sign in "\\`*_[]|" else sign for sign in text)


def _html(sections: list[Section], images: SmallImages) -> str:
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}"
        "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;"
        "overflow-wrap:anywhere}img{margin:.3em .6em .3em 0}"
    )
    parts = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Audit</title><style>{style}</style>']
    parts.append("<h1>Audit</h1>")
    for section in sections:
        parts += [f"<h2>{html.escape(section.title)}</h2>", f"<p>{html.escape(section.text)}</p>"]
        if section.rows:
            parts += ["<table>", _row("th", section.header)]
            parts += [_row("td", row) for row in section.rows[:_LISTED]]
            parts += ["</table>", *(f"<p>{line}</p>" for line in _more(section) if line)]
        parts += [_picture(rows, images) for rows in section.pictures[:_PICTURED]]
    return "\n".join(parts) + "</html>\n"


def _row(tag: str, cells: tuple[str, ...]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _picture(rows: tuple[int, ...], images: SmallImages) -> str:
    """Small images side by side, as part of the page; empty where one cannot be read any more."""
    try:
        picture = np.concatenate([images(row) for row in rows[:4]], axis=1)
    except (DecodeError, ShardError):
        return ""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG", optimize=True)
    text = base64.b64encode(data.getvalue()).decode()
    title = html.escape(" | ".join(images.names[row] for row in rows[:4]))
    return f'<img src="data:image/png;base64,{text}" height="{SIDE}" alt="{title}" title="{title}">'
