"""The few lines printed at the end of a run."""

import json
import sys
from pathlib import Path
from typing import Any, TextIO

from cxrbase.evaluation.score_text import score_text


def print_summary(run_dir: Path, stream: TextIO) -> None:
    """Writes the summary of a run folder in words.

    Args:
        run_dir: A run folder with summary.json.
        stream: Where to write.
    """
    summary = json.loads((run_dir / "summary.json").read_text())
    stream.write("\n".join(["", *_lines(summary, run_dir), ""]) + "\n")


def _lines(summary: dict[str, Any], run_dir: Path) -> list[str]:
    lines = [
        f"{summary['objective']} on {summary['backbone']}, {summary['image_size']} px, "
        f"{summary['images_seen']:,} images in {summary['wall_s']:.0f} s on {summary['device']} "
        f"({summary['precision']})",
        f"  encoder       {summary['encoder']}",
        f"  loss          {summary['loss_first']:.4f} first, {summary['loss_last']:.4f} last",
        f"  speed         {summary['images_per_s']:.0f} images/s, "
        f"{summary['data_wait_fraction']:.1%} of the time waiting for data",
    ]
    probe = summary["probe"]
    if probe is None:
        lines.append("  frozen probe  none: no labels to score on, or switched off")
    else:
        lines += _probe_lines(probe)
    if (run_dir / "figures").is_dir():
        lines.append(f"  figures       {run_dir / 'figures'}")
    if any(run_dir.glob("events.out.tfevents.*")):
        # The whole path, because nothing says that the environment is active.
        lines.append(f"  curves        {_here(Path(sys.executable).with_name('tensorboard'))} --logdir {run_dir}")
    return lines


def _here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _probe_lines(probe: dict[str, Any]) -> list[str]:
    lines = [
        f"  frozen probe  macro AUROC of {len(probe['classes'])} labels on {probe['n_test']} test images "
        f"({probe['n_train']} labelled for training), 95 % intervals"
    ]
    for name, title in (("linear", "linear probe"), ("knn", "kNN")):
        # Where a run started from other weights, they are what it is to be better than.
        which, said = ("start", "start") if "start" in probe[name] else ("random_init", "untrained")
        before, after, gain = probe[name][which], probe[name]["pretrained"], probe["difference"][name]
        lines.append(
            f"    {title:12}  pretrained {score_text(after)}   {said} {score_text(before)}   "
            f"difference {score_text(gain, '+.3f')}"
        )
    return lines
