"""`cxrbase sources`: lists the supported public data sets, and writes the manifest of a downloaded one."""

import sys
from collections import Counter
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from jsonargparse import auto_cli

from cxrbase.errors import ConfigError
from cxrbase.suggestions import SuggestingParser

if TYPE_CHECKING:
    from cxrbase.data.manifest import Manifest
    from cxrbase.data.sources.base import Source

_COLUMNS = ("name", "images", "patients", "size", "access", "licence")


def sources(words: list[str]) -> int:
    """Runs `cxrbase sources` with the words after it and returns the exit code."""
    # A switch without a value, as the messages about missing images name it.
    auto_cli(
        show,
        parser_class=SuggestingParser,
        args=["--partial=true" if word == "--partial" else word for word in words],
        prog="cxrbase sources",
        as_positional=False,
    )
    return 0


def show(name: str | None = None, root: str | None = None, out: str | None = None, partial: bool = False) -> None:
    """Lists the known data sets, tells all about one, or writes the manifest of a downloaded one.

    Args:
        name: Name of a data set; None lists all.
        root: Folder that it was downloaded to; None prints what is known about the set.
        out: Manifest to write, a .parquet file.
        partial: Leave out images that are missing, instead of refusing.
    """
    from cxrbase.data.sources.catalogue import SOURCES, find

    if name is None:
        if root or out or partial:
            raise ConfigError("--root, --out and --partial need --name=<data set>; `cxrbase sources` lists the names")
        sys.stdout.write(_table(list(SOURCES.values())))
        return
    source = find(name)
    if root is None and out is None and not partial:
        sys.stdout.write(_facts(source))
        return
    if root is None or out is None:
        raise ConfigError(f"a manifest of {name} needs both --root=<its folder> and --out=<manifest>.parquet")
    if Path(out).suffix != ".parquet":
        raise ConfigError(f"--out must end in .parquet, got {out}")
    manifest = source.read(root, partial=partial)
    manifest.write(out)
    sys.stdout.write(_counts(manifest) + f"written to {out}; its paths are relative to {root}\n")


def _table(known: "list[Source]") -> str:
    facts = [(s.name, _count(s.images), _count(s.patients), s.size or "-", s.access, s.licence) for s in known]
    # `--name` tells all of it; a line should fit a terminal.
    rows = [_COLUMNS, *[tuple(shorten(fact, 36, placeholder=" ...") for fact in row) for row in facts]]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n\n`cxrbase sources --name <name>` tells what the folder must hold.\n"


def _facts(source: "Source") -> str:
    facts = {
        "images": _count(source.images),
        "patients": _count(source.patients),
        "size": source.size or "-",
        "access": source.access,
        "licence": source.licence,
    }
    lines = [f"{source.name}: {source.title}", *[f"  {key:<9} {value}" for key, value in facts.items()]]
    lines += ["folder", *[f"  {line}" for line in source.layout]]
    lines += ["notes", *[f"  {line}" for line in source.notes]]
    return "\n".join(lines) + "\n"


def _counts(manifest: "Manifest") -> str:
    patients = len(set(manifest.column("patient_id")) - {""})
    lines = [f"{len(manifest):,} images, {_count(patients or None)} patients"]
    for title, column in (("split", "split"), ("view", "view_position")):
        counts = sorted(Counter(manifest.column(column)).items())
        lines.append(f"{title}: " + ", ".join(f"{value or 'unknown'} {count:,}" for value, count in counts))
    for label, values in zip(manifest.labels, manifest.label_matrix().T, strict=True):
        present, absent = int((values == 1).sum()), int((values == 0).sum())
        lines.append(f"{label}: {present:,} present, {absent:,} absent, {len(values) - present - absent:,} unknown")
    return "\n".join(lines) + "\n"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"
