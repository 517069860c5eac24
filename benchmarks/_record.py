"""What every benchmark shares: alternating rounds, medians with spread, and a result that says where it comes from.

    times = alternate({"ours": step, "theirs": other}, rounds=5)
    save("step_vit_small", {"rows": summary(times, against="theirs")}, packages=("torch", "timm"))

`save` writes benchmarks/results/<name>.json with machine, versions, date and command beside what was measured.
"""

import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def cpu_name() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def origin(packages: Iterable[str] = ("torch",)) -> dict[str, Any]:
    """Command, date, machine and versions; `load` is the one-minute load average, which tells what else ran.

    Args:
        packages: Distributions whose versions matter, beside cxrbase.
    """
    machine: dict[str, Any] = {"cpu": cpu_name(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}
    if "torch" in sys.modules:
        import torch

        machine["threads"] = torch.get_num_threads()
        machine["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    words = [Path(sys.argv[0]).resolve(), *sys.argv[1:]]
    script = words[0].relative_to(ROOT).as_posix() if words[0].is_relative_to(ROOT) else words[0].name
    return {
        "command": shlex.join(["python", script, *map(str, words[1:])]),
        "date": date.today().isoformat(),
        "machine": machine,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("cxrbase", *packages)},
    }


def save(name: str, measured: Mapping[str, Any], *, packages: Iterable[str] = ("torch",), out: str = "") -> Path:
    """Writes what was measured with where it comes from.

    Args:
        name: Name of the result, without a suffix.
        measured: What was measured, ready for JSON.
        packages: Distributions whose versions matter, beside cxrbase.
        out: Path of the JSON; "" takes benchmarks/results/<name>.json.

    Returns:
        Path of the JSON.
    """
    path = Path(out) if out else RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(origin(packages) | dict(measured), indent=2) + "\n")
    return path


def alternate(
    jobs: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 5,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    show: Callable[[str], object] = lambda line: None,
) -> dict[str, list[float]]:
    """Seconds of every job in every round; each round begins with another job, so drift falls on all alike.

    Args:
        jobs: What to time, by name.
        rounds: Rounds that count.
        warm_up: Rounds before them that do not.
        clock: `time.perf_counter`, or `time.process_time` where other programs take the processor away.
        show: Told of each round as it ends.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    names = list(jobs)
    for number in range(-warm_up, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = clock()
            jobs[name]()
            if number >= 0:
                times[name].append(clock() - start)
        if number >= 0:
            show(f"round {number + 1} of {rounds}: " + "  ".join(f"{name} {times[name][-1]:.3g} s" for name in names))
    return times


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    ordered = sorted(values)
    return {"median": statistics.median(ordered), "low": ordered[0], "high": ordered[-1], "n": len(ordered)}


def summary(times: Mapping[str, list[float]], *, against: str) -> dict[str, dict[str, Any]]:
    """Seconds of each job, and the ratio of its time to another's in the same round.

    Args:
        times: What `alternate` gave.
        against: The job that is 1.
    """
    return {
        name: {
            "seconds": spread(values),
            "ratio": spread(mine / theirs for mine, theirs in zip(values, times[against], strict=True)),
        }
        for name, values in times.items()
    }


def headline(
    what: str, value: float, unit: str, *, low: float | None = None, high: float | None = None, goal: str = ""
) -> dict[str, Any]:
    """One line of the table over all benches, which a result holds under "headlines".

    Args:
        what: What was measured.
        value: The median.
        unit: Its unit.
        low: Lowest value.
        high: Highest value.
        goal: What was aimed at, in words.
    """
    return {"what": what, "value": value, "low": low, "high": high, "unit": unit, "goal": goal}


def table(rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = ()) -> str:
    """Rows as a Markdown table; numbers to three significant figures, what was not measured stays empty.

    Args:
        rows: One mapping a row.
        columns: Their order; none takes that of the first row.
    """
    rows = list(rows)
    columns = list(columns) or list(rows[0] if rows else ())

    def cell(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, float):
            return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        return str(value)

    cells = [columns, *([cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)) + " |"
             for line in cells]  # fmt: skip
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
