"""Writes docs/performance.md from benchmarks/results/*.json; `--check` says whether it is up to date."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _record import table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
# Numbers of one result that the page shows; the rest stays in its file.
MOST = 30
_ORIGIN = ("command", "date", "machine", "versions", "note", "headlines", "tables")
_TABLES_ONLY = ("decode_cpu", "pack_cpu")
_HEAD = """# Performance

Made by `python benchmarks/tables.py` from `benchmarks/results/*.json`; a test fails when the two differ. Every result
names its command, machine and versions. Times on small shared machines vary: read ratios before seconds.
What was not measured is not here.
"""


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every number below a JSON value, by dotted name; lists of more than numbers by position."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from numbers(below, f"{name}.{key}" if name else key)
    elif isinstance(value, bool) or value is None:
        yield name, {True: "yes", False: "no", None: "undefined"}[value]
    elif isinstance(value, int | float):
        yield name, f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    elif isinstance(value, list) and value and all(isinstance(item, int | float) for item in value) and len(value) <= 4:
        yield name, ", ".join(f"{item:.4g}" for item in value)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from numbers(item, f"{name}.{number}")


def section(path: Path) -> str:
    """One result as Markdown: the tables that it brings along, then its other numbers."""
    result = json.loads(path.read_text())
    machine = ", ".join(f"{key} {value}" for key, value in result.get("machine", {}).items() if value is not None)
    versions = ", ".join(f"{key} {value}" for key, value in result.get("versions", {}).items())
    origin = (
        f"`{result.get('command', 'no command recorded')}`, {result.get('date', 'no date')}; {machine}; {versions}."
    )
    if "note" in result:
        origin += f"\n\n{result['note']}"
    rows = list(numbers({key: value for key, value in result.items() if key not in _ORIGIN}))
    tables = [f"{title}:\n\n{table(below)}\n" for title, below in result.get("tables", {}).items()]
    if isinstance(result.get("table"), list) or path.stem in _TABLES_ONLY:
        tables += [table(result["table"]), ""] if "table" in result else []
        lines = [f"## {path.stem.replace('_', ' ')}", "", origin, "", *tables]
        return "\n".join([*lines, f"More is in `benchmarks/results/{path.name}`."])
    lines = [
        f"## {path.stem.replace('_', ' ')}",
        "",
        origin,
        "",
        *tables,
        "| measured | value |",
        "|---|---|",
        *(f"| `{name}` | {value} |" for name, value in rows[:MOST]),
    ]
    if len(rows) > MOST:
        lines += ["", f"{len(rows) - MOST} more numbers are in `benchmarks/results/{path.name}`."]
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    return "\n\n".join([_HEAD.strip(), *(section(path) for path in sorted(RESULTS.glob("*.json")))]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    if not parser.parse_args().check:
        PAGE.write_text(page())
        return 0
    if PAGE.read_text() == page():
        return 0
    sys.stderr.write("docs/performance.md is stale: run python benchmarks/tables.py\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
