"""Draws the paper's figures from results.json alone."""

import itertools
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbase.compare.paper_numbers import METRICS
from cxrbase.evaluation.chart_styles import styles
from cxrbase.evaluation.defined import unlike, usual_classes
from cxrbase.evaluation.score_text import gap_text, score_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Content = Mapping[str, Any]
Row = Mapping[str, Any]

TITLES = {
    "figure2": "Figure 2. Image quality",
    "figure3": "Figure 3. Single diseases",
    "figure4": "Figure 4. Few labels against baselines with all labels",
}
_GREY = "0.45"
_SMALL = 7.5
_ROW = 0.24  # inches of a row of text
_DPI = 160


def write_figures(content: Content, folder: Path) -> list[Path]:
    """Writes each figure as PNG and PDF and returns the files."""
    paths = []
    for name in TITLES:
        figure = draw(content, name)
        png, pdf = (folder / f"{name}.{suffix}" for suffix in ("png", "pdf"))
        figure.savefig(png, dpi=_DPI)
        # Without a date the same numbers give the same file.
        figure.savefig(pdf, metadata={"CreationDate": None})
        paths += [png, pdf]
    return paths


def draw(content: Content, name: str) -> "Figure":
    """One figure: a row of panels for each task, AUC left and ACC right."""
    from matplotlib.figure import Figure

    tasks = content["figures"][name]["tasks"]
    notes = _notes(content, name)
    panel = 2.5 if name == "figure4" else _ROW * len(lines_of(content)) + 0.75
    figure = Figure(figsize=(12.5, 1.0 + panel * len(tasks) + 0.17 * len(notes)), layout="constrained")
    if tasks:
        grid = figure.subplots(len(tasks), 2, squeeze=False)
        for axes, task in zip(grid, tasks, strict=True):
            for one, metric in zip(axes, METRICS, strict=True):
                (_few_labels if name == "figure4" else _scores)(one, content, name, task, metric)
    if tasks and name == "figure4":
        _legend(figure, content, title=TITLES[name])
    else:
        figure.suptitle(TITLES[name], fontsize=12, x=0.01, ha="left")
    figure.supxlabel("\n".join(notes), fontsize=_SMALL, x=0.01, ha="left", color="0.25")
    return figure


def label_of(encoder: Row, content: Content) -> str:
    """An encoder in words, with its name where another has the same role."""
    alone = sum(one["role"] == encoder["role"] for one in content["encoders"]) == 1
    return str(encoder["title"] if alone else f"{encoder['title']} ({encoder['name']})")


def lines_of(content: Content) -> list[tuple[Row, int | None]]:
    """Encoders in order with the labels they learn from, None for all; ours has two lines."""
    lines: list[tuple[Row, int | None]] = []
    for encoder in content["encoders"]:
        lines += [(encoder, None)] + [(encoder, content["few"])] * (encoder["name"] == content["ours"])
    return lines


def p_text(row: Row | None) -> str:
    """A corrected p-value; empty where there is none."""
    if row is None or row.get("p_holm") is None:
        return ""
    return "p < 0.001" if row["p_holm"] < 0.001 else f"p = {row['p_holm']:.3f}"


def pick(rows: Iterable[Row], **wanted: Any) -> Row | None:
    """The first row with these entries."""
    return next((row for row in rows if all(row[key] == value for key, value in wanted.items())), None)


def _scores(axes: "Axes", content: Content, name: str, task: str, metric: str) -> None:
    """A line for every encoder: mean, 95 % interval, seeds, and at the right the numbers."""
    from matplotlib.ticker import MaxNLocator

    found, lines = content["figures"][name], lines_of(content)
    style = styles([encoder["name"] for encoder in content["encoders"]])
    for place, (encoder, shots) in enumerate(lines):
        row = pick(found["values"], task=task, metric=metric, encoder=encoder["name"], shots=shots)
        if row is None:
            _not_given(axes, place)
            continue
        _interval(axes, row, at=place, style=style[encoder["name"]], lying=True)
        against = pick(found["differences"], task=task, metric=metric, shots=None, against=encoder["name"])
        axes.text(1.02, place, f"{score_text(row)}  {p_text(against if shots is None else None)}",
                  transform=axes.get_yaxis_transform(), fontsize=_SMALL, va="center")  # fmt: skip
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_yticks(range(len(lines)), [_line_label(*line, content) for line in lines] if metric == "auroc" else [])
    if metric == "auroc":
        for label, (encoder, _) in zip(axes.get_yticklabels(), lines, strict=True):
            label.set_color("black" if encoder["given"] else _GREY)
    _chance(axes.axvline, content, task, metric)
    axes.set_xlabel(METRICS[metric], fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    _plain(axes, content, task, metric)


def _not_given(axes: "Axes", place: int) -> None:
    axes.text(0.5, place, "weights not given", transform=axes.get_yaxis_transform(), fontsize=_SMALL, color=_GREY,
              style="italic", ha="center", va="center", bbox={"fc": "white", "lw": 0, "pad": 1})  # fmt: skip


def _line_label(encoder: Row, shots: int | None, content: Content) -> str:
    if shots is not None:
        return f"the same, {shots} labelled patients per class"
    return (
        f"our encoder: {label_of(encoder, content)}"
        if encoder["name"] == content["ours"]
        else label_of(encoder, content)
    )


def _few_labels(axes: "Axes", content: Content, name: str, task: str, metric: str) -> None:
    """Our encoder over labels, and every encoder with all of them at the right end."""
    found = content["figures"][name]
    rows = [row for row in found["values"] if (row["task"], row["metric"]) == (task, metric)]
    style = styles([encoder["name"] for encoder in content["encoders"]])
    few = [row for row in rows if row["shots"] is not None]
    shots = sorted({row["shots"] for row in few})
    for row in few:
        if row["value"] is None:
            axes.text(shots.index(row["shots"]), 0.03, "undefined", transform=axes.get_xaxis_transform(),
                      fontsize=_SMALL, color=_GREY, rotation=90, ha="center")  # fmt: skip
        _interval(axes, row, at=shots.index(row["shots"]), style=style[row["encoder"]], lying=False)
    usual = usual_classes(row["classes"] for row in rows if row["value"] is not None)
    known = [row for row in few if row["value"] is not None and not unlike(row["classes"], usual)]
    axes.plot([shots.index(row["shots"]) for row in known], [row["value"] for row in known], lw=1.2,
              color=style[content["ours"]]["color"] if few else _GREY)  # fmt: skip
    whole = [row for row in rows if row["shots"] is None and row["value"] is not None]
    for place, row in enumerate(whole):
        _interval(axes, row, at=len(shots) + 0.14 * (place - (len(whole) - 1) / 2), style=style[row["encoder"]],
                  lying=False)  # fmt: skip
        axes.axhline(row["value"], color=style[row["encoder"]]["color"], lw=0.8, ls="--", alpha=0.6, zorder=0)
    axes.set_xticks(range(len(shots) + 1), [*map(str, shots), "all"])
    axes.set_xlim(-0.4, len(shots) + 0.5)
    _chance(axes.axhline, content, task, metric)
    axes.set_ylabel(METRICS[metric], fontsize=9)
    _plain(axes, content, task, metric)
    axes.set_xlabel("labelled patients per class", fontsize=_SMALL)
    axes.text(1.02, 1.0, _against(content, found, task, metric), transform=axes.transAxes, fontsize=_SMALL, va="top")


def _against(content: Content, found: Row, task: str, metric: str) -> str:
    """Our encoder with few labels less each baseline with all, in words."""
    lines = []
    for encoder in content["encoders"]:
        row = pick(found["differences"], task=task, metric=metric, shots=content["few"], against=encoder["name"])
        if row is not None:
            lines += [textwrap.fill(label_of(encoder, content), 34), f"  {gap_text(row)}  {p_text(row)}"]
    return "\n".join([f"{content['few']} per class, less all labels of", *lines]) if lines else ""


def _interval(axes: "Axes", row: Row, *, at: float, style: Mapping[str, Any], lying: bool) -> None:
    """A point with its 95 % interval, hollow for few labels, and the trainings and draws behind it."""
    if row["value"] is None:
        return
    error = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
    look: dict[str, Any] = {
        "ms": 6,
        "lw": 1.6,
        "capsize": 2.5,
        "mfc": style["color"] if row["shots"] is None else "white",
        **style,
    }
    seeds = row["by_seed"] if len(row["by_seed"]) > 1 else []
    beside, dots = [at] * len(seeds), {"s": 7, "color": style["color"], "alpha": 0.45, "lw": 0, "zorder": 1}
    if lying:
        axes.errorbar([row["value"]], [at], xerr=error, **look)
        axes.scatter(seeds, beside, **dots)
    else:
        axes.errorbar([at], [row["value"]], yerr=error, **look)
        axes.scatter(beside, seeds, **dots)


def _chance(line: Any, content: Content, task: str, metric: str) -> None:
    about = pick(content["tasks"], name=task)
    assert about is not None
    line(0.5 if metric == "auroc" else about["majority"], color="black", lw=0.9, ls=":", zorder=0)


def _plain(axes: "Axes", content: Content, task: str, metric: str) -> None:
    about = pick(content["tasks"], name=task)
    assert about is not None
    if metric == "auroc":
        said = f"{about['title']}\n{about['test_images']:,} test images of {about['test_patients']:,} patients"
        axes.set_title(said, fontsize=8.5, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_SMALL)
    axes.grid(alpha=0.25, lw=0.5)


def _notes(content: Content, name: str) -> list[str]:
    """What a reader must know, below the figure."""
    lines = [
        f"Frozen encoders, linear probe. Points: mean of trainings and draws of labels (small dots); bars: 95 % "
        f"intervals over them and patients; hollow: few labels, {len(content['seeds'])} draws for each training. "
        "p: difference to our encoder on the same patients, after Holm.",
        "Dotted: AUC 0.5, and the accuracy of always giving the commonest answer. "
        f"Threshold: best {content['threshold']} on validation.",
    ]
    lines += _off_the_line(content, name) if name == "figure4" else []
    return [wrapped for line in lines + _missing(content, name) for wrapped in textwrap.wrap(line, 190)]


def _off_the_line(content: Content, name: str) -> list[str]:
    """A sentence on the points whose mean is over other classes than that of most in their panel."""
    found, said = content["figures"][name], []
    for task, metric in itertools.product(found["tasks"], METRICS):
        rows = [row for row in found["values"] if (row["task"], row["metric"]) == (task, metric)]
        rows = [row for row in rows if row["value"] is not None]
        usual = usual_classes(row["classes"] for row in rows)
        for row in rows:
            if how := unlike(row["classes"], usual):
                few = "all labels" if row["shots"] is None else f"{row['shots']} per class"
                said.append(f"{task} {METRICS[metric]}, {row['encoder']} with {few} ({how})")
    return [f"On no line, as the mean is over other classes there: {'; '.join(said)}."] if said else []


def _missing(content: Content, name: str) -> list[str]:
    weights = [f"{one['title']} ({one['name']})" for one in content["encoders"] if not one["given"]]
    images = content["figures"][name]["absent"]
    lines = [f"Missing, as their weights are not given: {'; '.join(weights)}."] if weights else []
    lines += [f"Missing, as their images are not there: {', '.join(images)}."] if images else []
    return lines + ["No task of this figure has its images here."] * (not content["figures"][name]["tasks"])


def _legend(figure: "Figure", content: Content, *, title: str) -> None:
    """Every encoder by colour and mark, also those that are missing."""
    from matplotlib.lines import Line2D

    style, handles = styles([encoder["name"] for encoder in content["encoders"]]), []
    for encoder in content["encoders"]:
        if encoder["name"] == content["ours"]:
            label = f"{label_of(encoder, content)}, few labels"
            handles.append(Line2D([], [], label=label, mfc="white", lw=1.2, **style[encoder["name"]]))
        look = style[encoder["name"]] if encoder["given"] else {"color": _GREY, "marker": "x"}
        label = label_of(encoder, content) + (", all labels" if encoder["given"] else ": weights not given")
        handles.append(Line2D([], [], label=label, ls="", **look))
    figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=_SMALL, frameon=False, title=title,
                  title_fontsize=12, alignment="left")  # fmt: skip
