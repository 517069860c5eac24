"""Scores the encoder of a cell with the evaluation suite, and keeps what arms are compared by."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbase.compare.plan import Cell, Plan, code_version
from cxrbase.data.reading import Reading
from cxrbase.devices import device_of
from cxrbase.evaluation.measure import plain
from cxrbase.evaluation.metrics import feature_std, rankme
from cxrbase.evaluation.significance import hierarchical_mean
from cxrbase.evaluation.suite.results import Result
from cxrbase.evaluation.suite.score_encoder import NamedEncoder, score_encoder
from cxrbase.evaluation.task import read_task
from cxrbase.evaluation.task_data import TaskData, load_task_data
from cxrbase.sizes import longest
from cxrbase.weights import load_any_encoder

SCORES, CANVAS = "scores", "canvas"
_DRAWS = (0, 1, 2)
_KEPT = ("auroc", "auprc", "accuracy", "balanced_accuracy", "f1", "brier", "ece")


def score_tasks(plan: Plan, run: Path, cell: Cell) -> dict[str, Any]:
    """Scores of one encoder on every task of the plan.

    Args:
        plan: The comparison.
        run: Folder of the encoder.
        cell: Whose encoder it is.

    Returns:
        By task: `protocols` with value, interval and samples of the macro AUROC, (D, R + 1) by draw of labels, and the
        other metrics, mean over draws, `subgroups`,
        `warnings`, `confounded`, whether source, site or origin tells a label, and `features`, how much of the feature
        space is used.
    """
    device = str(device_of())
    encoder = NamedEncoder(cell.title, str(run), *load_any_encoder(str(run)))
    found = {}
    for path in plan.tasks:
        data = load_task_data(read_task(path))
        results = score_encoder(
            encoder,
            data,
            settings_of(plan),
            out=scores_folder(run),
            canvas=canvas_folder(run),
            device=device,
            bad_option="--max_bad",
        )
        found[data.task.name] = {
            "protocols": _protocols(results),
            "subgroups": _gaps(results),
            "warnings": list(dict.fromkeys(w for r in results if "shot" not in r.row["protocol"]
                                           for w in r.row["warnings"])),
            "confounded": any(_told_by_origin(result.row) for result in results),
            "features": _look(encoder, run, data, plan, device),
        }  # fmt: skip
    return found


def _told_by_origin(row: Mapping[str, Any]) -> bool:
    return any(found["flagged"] for rows in row["shortcut"]["label_from_origin"].values() for found in rows)


def settings_of(plan: Plan) -> Any:
    """Protocols of a comparison: everything by linear probe and neighbours, and few labels by linear probe."""
    from cxrbase.evaluation.suite.score_task import Settings

    return Settings(
        protocols=["linear", "knn", *(f"linear-{k}shot" for k in plan.shots)],
        seeds=list(_DRAWS),
        resamples=plan.resamples,
        seen="exact",  # near copies are the audit's to find, once, and not for every cell
        max_bad=plan.max_bad,
        cache_gb=plan.cache_gb,
    )


def opening(plan: Plan) -> dict[str, Any]:
    """How the images of a task are opened, as `open_images` takes it."""
    return {"option": "--out", "max_bad": plan.max_bad, "bad_option": "--max_bad", "limit_gb": plan.cache_gb}


def scores_folder(run: Path) -> Path:
    """Folder of the evaluation suite beside the cells; another one for other code, which may score otherwise."""
    return canvas_folder(run).parent / code_version()


def canvas_folder(run: Path) -> Path:
    """Folder of the decoded images of all tasks: one for all cells, so that each is decoded once."""
    return run.parent.parent.parent / SCORES / CANVAS


def curve(run: Path, summary: dict[str, Any], cost: dict[str, Any]) -> list[dict[str, float]]:
    """Scores on validation patients on the way, with the images, FLOPs and seconds spent until then."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not summary:
        return []
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    points: dict[int, dict[str, float]] = {}
    for protocol in ("linear", "knn"):
        tag = f"val_probe/{protocol}_macro_auroc"
        for point in events.Scalars(tag) if tag in events.Tags()["scalars"] else []:
            images = point.step * summary["images_seen"] / summary["steps"]
            price = {"images": images, "flops": images * cost["flops_per_image"],
                     "seconds": images / summary["images_per_s"]}  # fmt: skip
            points.setdefault(point.step, price)[protocol] = point.value
    return [points[step] for step in sorted(points)]


def _protocols(results: list[Result]) -> dict[str, Any]:
    """Draws of few labels are kept apart: arms are compared draw by draw, as these are the same for every encoder."""
    found = {}
    for name in dict.fromkeys(result.row["protocol"] for result in results):
        own = [result for result in results if result.row["protocol"] == name]
        samples = [[plain(round(float(value), 6)) for value in result.macro["auroc"]] for result in own]
        found[name] = _bounded([result.macro["auroc"] for result in own]) | {
            "draws": len(own), "samples": samples,
            "metrics": {metric: _over_draws(own, metric) for metric in _KEPT if metric in own[0].row["metrics"]},
            "split_checksum": own[0].row["split_checksum"], "protocol_text": own[0].row["protocol_text"],
            "encoder_hash": own[0].row["encoder"]["hash"],
        }  # fmt: skip
    return found


def _over_draws(draws: list[Result], metric: str) -> dict[str, Any]:
    """A metric as a result row has it, mean over draws; of several draws only the macro mean has an interval."""
    rows = [draw.row["metrics"][metric] for draw in draws]
    if len(rows) == 1:
        return dict(rows[0])
    by_class = {name: [row["per_class"][name]["value"] for row in rows] for name in rows[0]["per_class"]}
    means = {name: None if None in values else float(np.mean(values)) for name, values in by_class.items()}
    return {
        "macro": _bounded([draw.macro[metric] for draw in draws]),
        "per_class": {name: {"value": mean, "low": None, "high": None} for name, mean in means.items()},
        "classes": [name for name in rows[0]["classes"] if all(name in row["classes"] for row in rows)],
    }


def _bounded(draws: list[NDArray[np.float64]]) -> dict[str, float | None]:
    """Mean over draws (R + 1,) with the 95 % interval over draws and patients."""
    found = hierarchical_mean([np.stack(draws)])
    return {"value": plain(found.value), "low": plain(found.low), "high": plain(found.high)}


def _gaps(results: list[Result]) -> list[dict[str, Any]]:
    linear = next((result for result in results if result.row["protocol"] == "linear"), None)
    report = linear.row["subgroups"] if linear else {}
    return [
        {"group": name, "best": found["gap"]["best"], "worst": found["gap"]["worst"], "gap": found["gap"]}
        for name, found in report.items()
        if found["gap"] is not None
    ]


def _look(encoder: NamedEncoder, run: Path, data: TaskData, plan: Plan, device: str) -> dict[str, Any]:
    """Rank and spread of the features of test images, and a map of them."""
    from cxrbase.evaluation.suite.feature_store import FeatureStore
    from cxrbase.evaluation.suite.score_task import splits_of
    from cxrbase.evaluation.task_images import open_images

    folder = scores_folder(run)
    size, read = 2 * longest(encoder.card["image_size"]), Reading.of(encoder.card)
    images = open_images(data, size=size, read=read, cache_dir=canvas_folder(run), **opening(plan))
    _, rows = splits_of(data, images.rows)
    store = FeatureStore(
        encoder.network, encoder.card, manifest=data.manifest, images=images, folder=folder / "features", device=device
    )
    features = store.features(rows["test"], name="map of")
    _draw_map(features, data, rows["test"], run / "figures" / "map.png")
    rank, spread = rankme(features), feature_std(features)
    return {"rankme": rank, "std": spread, "collapsed": rank < 2 or spread < 0.05}


def _draw_map(features: NDArray[np.float32], data: TaskData, rows: NDArray[np.int64], path: Path) -> None:
    """The two directions in which features differ most, coloured by finding and by site."""
    from matplotlib.figure import Figure

    table = (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
    _, _, directions = np.linalg.svd(table, full_matrices=False)
    places = table @ directions[:2].T
    truth = data.truth[rows]
    positive = np.nan_to_num(truth) == 1
    finding = np.where(positive.any(1), np.array(data.classes)[positive.argmax(1)], "none")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    for axes, (title, names) in zip(
        figure.subplots(1, 2), {"finding": finding, "site": data.column("site")[rows].astype(str)}.items(), strict=True
    ):
        for number, name in enumerate(np.unique(names)):
            own = names == name
            axes.scatter(*places[own].T, s=7, alpha=0.6, color=f"C{number % 10}", label=name or "unknown", lw=0)
        axes.set(title=f"by {title}", xlabel="first component", ylabel="second component")
        axes.legend(fontsize=7, markerscale=2)
    figure.savefig(path, dpi=100)
