"""Runs benches one after the other, and prints one table over all of them at the end.

    make bench BENCHES="throughput step memory clock" STEP_SIZE=vit_small

Each bench is a script of its own, with a JSON in benchmarks/results/; the table is of the headlines that these hold. A
bench that fails is a line of the table, and the others go on.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from _record import ROOT, table
from jsonargparse import auto_cli

# Where one thread gives steadier times than several.
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def commands(size: str, device: str) -> dict[str, tuple[list[str], dict[str, str], str]]:
    """Words, environment and name of the result, by bench; together under 20 minutes on two quiet cores."""
    step = ["--batch_size", "2"] if device == "cpu" else ["--batch_size", "128", "--compiled", "true"]
    return {
        "throughput": ([], {}, f"throughput_tiny_{device}"),
        "step": (["--size", size, *step], _ONE_THREAD if device == "cpu" else {}, f"step_{size}_{device}"),
        "memory": ([], {}, "memory"),
        "clock": ([], _ONE_THREAD, f"clock_{device}"),
    }


def run(name: str, words: list[str], more: dict[str, str], out: Path) -> list[dict[str, Any]]:
    """One bench; its headlines, or a line that says that it failed."""
    began = time.monotonic()
    # Seen from the repository, so that the command in the result names no folder of this machine.
    script = [sys.executable, f"benchmarks/{name}.py", *words, "--out", os.path.relpath(out, ROOT)]
    done = subprocess.run(script, cwd=ROOT, env=os.environ | more, check=False)
    took = {"bench": name, "minutes": round((time.monotonic() - began) / 60, 1)}
    if done.returncode != 0:
        return [took | {"what": f"failed with exit code {done.returncode}"}]
    return [took | line for line in json.loads(out.read_text())["headlines"]]


def bench(
    benches: list[str] = ["throughput", "step", "memory", "clock"],  # noqa: B006
    size: str = "vit_small",
    folder: str = "benchmarks/results",
) -> int:
    """Measures, prints the table, and gives the number of benches that failed.

    Args:
        benches: throughput, step, memory, clock.
        size: Network of the step bench: vit_tiny, vit_small, vit_base or vit_large.
        folder: Where the JSON files go, seen from the repository.
    """
    known = commands(size, "cuda" if torch.cuda.is_available() else "cpu")
    if unknown := set(benches) - set(known):
        sys.exit(f"no bench {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    lines: list[dict[str, Any]] = []
    for name in benches:
        words, more, result = known[name]
        lines += run(name, words, more, ROOT / folder / f"{result}.json")
    print("", table(lines, ("bench", "what", "value", "low", "high", "unit", "goal", "minutes")), sep="\n")
    return sum("value" not in line for line in lines)


if __name__ == "__main__":
    sys.exit(auto_cli(bench, as_positional=False))
