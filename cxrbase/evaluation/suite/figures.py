"""Pictures of the results of a task: ROC, precision-recall, reliability, confusion, and AUROC over labels."""

import textwrap
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrbase.evaluation.calibration import reliability
from cxrbase.evaluation.chart_styles import styles
from cxrbase.evaluation.defined import left_out_note, unlike, usual_classes
from cxrbase.evaluation.protocols import Protocol
from cxrbase.evaluation.suite.results import Result, file_part

_Style = Mapping[str, Any]
_Styles = Mapping[str, _Style]

_SHOWN = 16  # classes per picture
_MARK_EVERY = 0.2  # of the diagonal of a picture


def write_figures(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draws what the results of one task show, and returns the files.

    Args:
        results: Of one task; each encoder has a colour and a mark. Curves are those of the linear probe on all labels,
            or of the neighbours where it was not run.
        folder: Where the PNG files go.
    """
    style = styles(_encoders(results))
    pictures = _curves(_whole(results), style)
    if (curve := _label_efficiency(results, style)) is not None:
        pictures["label_efficiency"] = curve
    return _save(pictures, results[0].row["task"]["name"], folder)


def write_curves(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draws `curves` and returns the files.

    Args:
        results: At least one.
        folder: Where the PNG files go.
    """
    return _save(curves(results), results[0].row["task"]["name"], folder)


def curves(results: Sequence[Result]) -> dict[str, Any]:
    """Figures by name of one result of each encoder on one task: ROC, precision-recall, reliability, and confusion.

    Args:
        results: Of one task; none gives no figures.
    """
    return _curves(results, styles(_encoders(results)))


def _curves(results: Sequence[Result], style: _Styles) -> dict[str, Any]:
    if not results:
        return {}
    drawn = {name: _per_class(results, style, metric, said, draw) for name, (metric, said, draw) in _CURVES.items()}
    return drawn | {f"confusion_{file_part(result.row['encoder']['name'])}": _confusion(result) for result in results}


def _save(pictures: Mapping[str, Any], task: str, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{file_part(task)}__{name}.png" for name in pictures}
    for name, figure in pictures.items():
        figure.savefig(paths[name], dpi=120)
    return list(paths.values())


def _encoders(results: Sequence[Result]) -> list[str]:
    """Names of the encoders in the order in which they first come."""
    return list(dict.fromkeys(result.row["encoder"]["name"] for result in results))


def _whole(results: Sequence[Result]) -> list[Result]:
    """One result of each encoder on all labels."""
    found: dict[str, Result] = {}
    for protocol in ("knn", "linear"):
        found |= {r.row["encoder"]["name"]: r for r in results if r.row["protocol"] == protocol}
    return [found[name] for name in _encoders(results) if name in found]


def _per_class(
    results: Sequence[Result], style: _Styles, metric: str, said: str, draw: Callable[[Any, Result, int, _Style], None]
) -> Any:
    from matplotlib.figure import Figure

    first = results[0].row
    told = {name for result in results for name in result.row["metrics"][metric]["classes"]}
    classes = [(k, name) for k, name in enumerate(first["metrics"][metric]["per_class"]) if name in told][:_SHOWN]
    across = min(4, max(1, len(classes)))
    down = -(-max(1, len(classes)) // across)
    figure = Figure(figsize=(3.4 * across + 0.6, 3.3 * down + 0.9), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis, (column, name) in zip(axes[: len(classes)], classes, strict=True):
        for result in results:
            draw(axis, result, column, style[result.row["encoder"]["name"]])
        axis.set_title(name.replace("_", " "), fontsize=10)
        axis.legend(fontsize=7, loc="best", title=f"{said} [95 %]", title_fontsize=7)
    for axis in axes[len(classes) :]:
        axis.set_visible(False)
    title = textwrap.fill(first["task"]["title"], 42 * across)
    figure.suptitle(f"{title}\n{first['protocol']}, {len(results[0].labels):,} test images", fontsize=11)
    return figure


def _known(result: Result, column: int) -> tuple[Any, Any]:
    known = ~np.isnan(result.labels[:, column]) & ~np.isnan(result.logits[:, column])
    return result.logits[known, column], result.labels[known, column] == 1


def _counts(scores: Any, truth: Any) -> tuple[Any, Any]:
    """True and false positives at each distinct score, falling."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
    return np.cumsum(truth[order])[ends], np.cumsum(~truth[order])[ends]


def _named(result: Result, metric: str, column: int) -> str:
    entry = list(result.row["metrics"][metric]["per_class"].values())[column]
    text = "undefined" if entry["value"] is None else f"{entry['value']:.3f}"
    if entry["low"] is not None:
        text += f" [{entry['low']:.2f}, {entry['high']:.2f}]"
    return f"{result.row['encoder']['name']} {text}"


def _roc(axis: Any, result: Result, column: int, style: _Style) -> None:
    scores, truth = _known(result, column)
    if truth.any() and not truth.all():
        hits, false = _counts(scores, truth)
        axis.plot(np.r_[0, false / false[-1]], np.r_[0, hits / hits[-1]], lw=1.5, ms=4, markevery=_MARK_EVERY,
                  label=_named(result, "auroc", column), **style)  # fmt: skip
    axis.plot([0, 1], [0, 1], color="0.7", lw=0.8, ls="--")
    axis.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")


def _precision_recall(axis: Any, result: Result, column: int, style: _Style) -> None:
    scores, truth = _known(result, column)
    if truth.any() and not truth.all():
        hits, false = _counts(scores, truth)
        axis.step(np.r_[0, hits / hits[-1]], np.r_[1, hits / (hits + false)], where="pre", lw=1.5, ms=4,
                  markevery=_MARK_EVERY, label=_named(result, "auprc", column), **style)  # fmt: skip
        axis.axhline(truth.mean(), color="0.7", lw=0.8, ls="--")
    axis.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="recall", ylabel="precision", aspect="equal")


def _reliability(axis: Any, result: Result, column: int, style: _Style) -> None:
    known = list(result.row["metrics"]["ece"]["per_class"].values())[column]["value"] is not None
    chances = result.probabilities[:, column] if known else np.full(len(result.labels), np.nan)
    curve = reliability(chances, result.labels[:, column])
    full = curve.count > 0
    axis.plot(curve.probability[full], curve.frequency[full], color=style["color"], lw=1)
    axis.scatter(curve.probability[full], curve.frequency[full], s=4 + 80 * curve.count[full] / curve.count.sum(),
                 **style)  # fmt: skip
    axis.plot([], [], lw=1, ms=4, label=_named(result, "ece", column), **style)
    axis.plot([0, 1], [0, 1], color="0.7", lw=0.8, ls="--")
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted probability", ylabel="share of positives", aspect="equal")


# By picture: the metric beside the name of each encoder, what it is called, and what draws a class of one of them.
_CURVES = {
    "roc": ("auroc", "AUROC", _roc),
    "precision_recall": ("auprc", "average precision", _precision_recall),
    "reliability": ("ece", "calibration error", _reliability),
}


def _confusion(result: Result) -> Any:
    """Two by two for each finding at its threshold; all against all where an image has exactly one class."""
    from matplotlib.figure import Figure

    names = list(result.row["metrics"]["auroc"]["per_class"])
    limits = {name: limit for name, limit in result.row["metrics"]["threshold"].items()
              if limit is not None and name not in result.row["undefined"]}  # fmt: skip
    if result.row["task"]["kind"] == "multiclass" and len(limits) == len(names):
        single = np.nansum(result.labels, axis=1) == 1
        truth, called = np.nan_to_num(result.labels[single]).argmax(1), result.probabilities[single].argmax(1)
        table = np.zeros((len(names), len(names)), int)
        np.add.at(table, (truth, called), 1)
        tables = [("likeliest class", [n.replace("_", " ") for n in names], table)]
    else:
        tables = [(n.replace("_", " "), ["absent", "present"], _two_by_two(result, k, limits[n]))
                  for k, n in enumerate(names) if n in limits][:_SHOWN]  # fmt: skip
    across = min(4, max(1, len(tables)))
    down = -(-max(1, len(tables)) // across)
    figure = Figure(figsize=(2.9 * across + 0.4, 2.9 * down + 0.8), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis, (title, ticks, table) in zip(axes[: len(tables)], tables, strict=True):
        _matrix(axis, title, ticks, table)
    for axis in axes[len(tables) :]:
        axis.set_visible(False)
    said = f"{result.row['encoder']['name']}, {result.row['protocol']}: test images at validation thresholds"
    figure.suptitle(textwrap.fill(said, 38 * across), fontsize=10)
    return figure


def _two_by_two(result: Result, column: int, limit: float) -> Any:
    known = ~np.isnan(result.labels[:, column])
    truth = result.labels[known, column].astype(int)
    called = (result.probabilities[known, column] >= limit).astype(int)
    table = np.zeros((2, 2), int)
    np.add.at(table, (truth, called), 1)
    return table


def _matrix(axis: Any, title: str, ticks: list[str], table: Any) -> None:
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        axis.text(column, row, f"{count}\n{share[row, column]:.0%}", ha="center", va="center", fontsize=8,
                  color="white" if share[row, column] > 0.6 else "black")  # fmt: skip
    places = range(len(ticks))
    axis.set_xticks(places, ticks, fontsize=7)
    axis.set_yticks(places, ticks, fontsize=7, rotation=90, va="center")
    axis.set_xlabel("called", fontsize=8)
    axis.set_ylabel("is", fontsize=8)
    axis.set_title(title, fontsize=10)


def _label_efficiency(results: Sequence[Result], style: _Styles) -> Any:
    """Macro AUROC over labels, the mean of the seeds and their range; dashed without any labels limit."""
    from matplotlib.figure import Figure

    shots: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    shares: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    drawn, note = _of_usual_classes(results)
    for result in drawn:
        protocol, name = Protocol.parse(result.row["protocol"]), result.row["encoder"]["name"]
        value = result.row["metrics"]["auroc"]["macro"]["value"]
        if protocol.shots is not None:
            shots[name][protocol.shots].append(value)
        else:
            shares[name][protocol.share * 100].append(value)
    if not shots and not any(len(one) > 1 for one in shares.values()):
        return None
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _bands(left, shots, style, "patients per class and label")
    _bands(right, shares, style, "% of the training patients")
    left.set_ylabel("macro AUROC, test")
    right.legend(fontsize=8, loc="lower right")
    seeds = len({result.row["seed"] for result in results})
    figure.suptitle(f"{results[0].row['task']['title']}: linear probe, mean and range of {seeds} seeds", fontsize=11)
    figure.supxlabel(textwrap.fill(note, 130), fontsize=8)
    return figure


def _of_usual_classes(results: Sequence[Result]) -> tuple[list[Result], str]:
    """Results of the linear probe whose macro AUROC is over the classes that most have, and a note on the others."""
    known = [one for one in results if Protocol.parse(one.row["protocol"]).head == "linear"]
    known = [one for one in known if one.row["metrics"]["auroc"]["macro"]["value"] is not None]
    usual = usual_classes(one.row["metrics"]["auroc"]["classes"] for one in known)
    differ = [unlike(one.row["metrics"]["auroc"]["classes"], usual) for one in known]
    others = [(one.row["protocol"], how) for one, how in zip(known, differ, strict=True) if how]
    return [one for one, how in zip(known, differ, strict=True) if not how], left_out_note(others)


def _bands(axis: Any, curves: Any, style: _Styles, label: str) -> None:
    for name, curve in curves.items():
        places = sorted(curve)
        values = [curve[place] for place in places]
        axis.plot(places, [np.mean(v) for v in values], ms=4, lw=1.5, label=name, **style[name])
        axis.fill_between(places, [min(v) for v in values], [max(v) for v in values], color=style[name]["color"],
                          alpha=0.2, lw=0)  # fmt: skip
    ticks = sorted({place for curve in curves.values() for place in curve})
    if ticks:
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
    axis.axhline(0.5, color="0.7", lw=0.8, ls="--")
    axis.set_xlabel(label)
    axis.grid(alpha=0.2)
