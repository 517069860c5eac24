"""Charts of a comparison as SVG in the page's text colour, readable in light and dark themes."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cxrbase.evaluation.chart_styles import styles
from cxrbase.evaluation.defined import left_out_note, unlike, usual_classes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#123456"  # stands for the page's text colour until the SVG is written
_AXES = {"images": "images seen", "flops": "training FLOPs", "seconds": "seconds of training"}


def scores(values: Sequence[Mapping[str, Any]], arms: Sequence[str], protocol: str) -> str:
    """Macro AUROC of each arm on each task with its interval; "" where there is none."""
    rows = [row for row in values if row["protocol"] == protocol]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    if not rows:
        return ""
    figure = _figure(7.2, 0.7 + 0.32 * len(tasks) * len(arms))
    axes, style = figure.subplots(), styles(arms)
    for place, task in enumerate(tasks):
        for number, arm in enumerate(arms):
            for row in (row for row in rows if row["task"] == task and row["arm"] == arm):
                height = -place - (number + 1) / (len(arms) + 1)
                axes.plot([row["low"], row["high"]], [height, height], color=style[arm]["color"], lw=2)
                label = arm if not place else None
                axes.plot(row["value"], height, ls="", ms=7, label=label, **style[arm])
    axes.set_yticks([-place - 0.5 for place in range(len(tasks))], tasks)
    axes.set_ylim(-len(tasks), 0)
    axes.axvline(0.5, color=_INK, lw=0.8, ls=":")
    axes.set_xlabel(f"macro AUROC by {protocol}, 95 % interval over seeds and patients")
    return _svg(figure, axes)


def curves(results: Sequence[Mapping[str, Any]], arms: Sequence[str], protocol: str) -> str:
    """Score on validation patients against images, FLOPs and seconds, a line for each seed."""
    if not any(result["curve"] for result in results):
        return ""
    figure, style = _figure(9.6, 3.2), styles(arms)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, kind in zip(panels, _AXES, strict=True):
        named: set[str] = set()
        for result in (result for result in results if result["curve"]):
            arm = result["cell"]["arm"]
            points = [(point[kind], point[protocol]) for point in result["curve"] if point.get(protocol) is not None]
            axes.plot(*zip(*points, strict=True), ms=4, lw=1.2, label=None if arm in named else arm, **style[arm])
            named.add(arm)
        axes.set_xlabel(_AXES[kind])
        axes.locator_params(axis="x", nbins=4)
        _plain(axes)
    panels[0].set_ylabel(f"macro AUROC by {protocol}, validation")
    return _svg(figure, panels[0])


def few_labels(values: Sequence[Mapping[str, Any]], arms: Sequence[str], task: str) -> str:
    """Score over labelled patients per class, with intervals over seeds and patients.

    Points whose mean is over other classes than most are left out, and named below.
    """
    rows = [row for row in values if row["task"] == task and row["protocol"].endswith("shot")]
    if not rows:
        return ""
    usual = usual_classes(row["classes"] for row in rows)
    others = [(row["protocol"], how) for row in rows if (how := unlike(row["classes"], usual))]
    rows = [row for row in rows if not unlike(row["classes"], usual)]
    figure, style = _figure(6.0, 3.4), styles(arms)
    axes = figure.subplots()
    for arm in arms:
        points = sorted((_shots(row), row["value"], row["low"], row["high"]) for row in rows if row["arm"] == arm)
        if points:
            shots, value, low, high = zip(*points, strict=True)
            axes.plot(shots, value, ms=5, label=arm, **style[arm])
            axes.fill_between(shots, low, high, color=style[arm]["color"], alpha=0.15, lw=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks := sorted({_shots(row) for row in rows}), [str(tick) for tick in ticks])
    axes.set(xlabel="labelled patients per class and label", ylabel="macro AUROC")
    figure.supxlabel(textwrap.fill(left_out_note(others), 80), fontsize=8, color=_INK)
    return _svg(figure, axes)


def precision_against_score(values: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]], task: str,
                            protocol: str) -> str:  # fmt: skip
    """Score of each objective by precision; "" where only one was tried."""
    precision = {cell["cell"]["arm"]: cell["cell"] for cell in cells if "cell" in cell and "summary" in cell}
    rows = [row for row in values if (row["task"], row["protocol"]) == (task, protocol) and row["arm"] in precision]
    rows = [row for row in rows if precision[row["arm"]]["objective"] != "untrained"]
    kinds = sorted({precision[row["arm"]]["precision"] for row in rows})
    if len(kinds) < 2:
        return ""
    objectives = list(dict.fromkeys(precision[row["arm"]]["objective"] for row in rows))
    figure, style = _figure(5.6, 3.0), styles(objectives)
    axes = figure.subplots()
    for number, objective in enumerate(objectives):
        for row in (row for row in rows if precision[row["arm"]]["objective"] == objective):
            place = kinds.index(precision[row["arm"]]["precision"]) + 0.12 * (number - len(objectives) / 2)
            axes.plot([place, place], [row["low"], row["high"]], color=style[objective]["color"], lw=2)
            axes.plot(place, row["value"], ls="", ms=7, **style[objective])
        axes.plot([], [], ls="", label=objective, **style[objective])
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set_ylabel(f"macro AUROC by {protocol}")
    return _svg(figure, axes)


def _shots(row: Mapping[str, Any]) -> int:
    return int(row["protocol"].split("-")[1].removesuffix("shot"))


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.grid(color=_INK, alpha=0.15, lw=0.6)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.xaxis.get_offset_text()):
        text.set_color(_INK)


def _svg(figure: "Figure", legend_of: "Axes") -> str:
    import matplotlib as mpl

    _plain(legend_of)
    if (named := legend_of.get_legend_handles_labels())[0]:
        # Beside the axes, where it hides nothing.
        figure.legend(*named, loc="outside right upper", frameon=False, labelcolor=_INK, fontsize=9)
    text = io.StringIO()
    # Text stays text, so that it can be searched, copied and read aloud.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cxrbase", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :].replace(_INK, "currentColor")
