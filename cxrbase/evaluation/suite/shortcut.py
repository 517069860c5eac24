"""Checks whether the source of an image predicts the labels of a task, and whether the features reveal the source."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cxrbase.data.audit_checks import confounded
from cxrbase.evaluation.cohort import Cohort, Splits
from cxrbase.evaluation.linear import LinearProbe
from cxrbase.evaluation.measure import bounded
from cxrbase.evaluation.metrics import bootstrap_auroc, macro_samples
from cxrbase.evaluation.protocols import Features

ORIGINS = ("source", "site", "origin")


def label_by_origin(splits: Splits) -> dict[str, list[dict[str, Any]]]:
    """How well source, site or origin alone tell each label, over all splits; see `confounded` for the entries."""
    found: dict[str, list[dict[str, Any]]] = {}
    for variable in ORIGINS:
        if any(variable not in part.groups for _, part in splits.parts()):
            continue
        origin = np.concatenate([part.groups[variable].astype(str) for _, part in splits.parts()])
        labels = np.concatenate([part.labels for _, part in splits.parts()]).astype(np.float64)
        labels[~np.isin(labels, (0, 1)) | (origin == "")[:, None]] = np.nan
        rows = [confounded(name, column, origin) for name, column in zip(splits.classes, labels.T, strict=True)]
        if kept := [row for row in rows if row is not None]:
            found[variable] = kept
    return found


def origin_from_features(
    features: Features, parts: Mapping[str, Cohort], weights: npt.NDArray[np.generic]
) -> dict[str, dict[str, Any]]:
    """Macro AUROC of a linear probe that tells source, site or origin from features, on the test images.

    Args:
        features: `train`, `val` and `test`, (N, D) each.
        parts: Their images by the same names.
        weights: (R, N) multiplicities of the test images.

    Returns:
        By variable, for those with two groups or more: `auroc` with its interval, and `groups`.
    """
    found = {}
    for variable in ORIGINS:
        if any(variable not in part.groups for part in parts.values()):
            continue
        origins = {name: part.groups[variable].astype(str) for name, part in parts.items()}
        kinds = [str(kind) for kind in np.unique(origins["train"]) if kind and (origins["test"] == kind).any()]
        if len(kinds) < 2:
            continue
        labels = {name: (origin[:, None] == np.array(kinds)).astype(float) for name, origin in origins.items()}
        probe = LinearProbe().fit(features["train"], labels["train"], features["val"], labels["val"])
        every = np.concatenate([np.ones((1, len(parts["test"])), weights.dtype), weights])
        found_by_class = bootstrap_auroc(probe.scores(features["test"]), labels["test"], every)
        areas = macro_samples(found_by_class, found_by_class[0])
        found[variable] = {"auroc": bounded(areas[0], areas[1:]), "groups": kinds}
    return found


def shortcut_warnings(by_origin: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One sentence for each label that its source, site or origin tells."""
    return [
        f"the {variable} of an image tells {row['label']} (AUROC {row['auroc']:.3f} without looking at the image), so "
        f"a score can show which {variable} it is from and not what it shows"
        for variable, rows in by_origin.items()
        for row in rows
        if row["flagged"]
    ]
