"""Score differences between groups of patients by sex, age band, view and site, with the gap and its interval."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cxrbase.evaluation.cohort import Cohort
from cxrbase.evaluation.measure import bounded
from cxrbase.evaluation.metrics import macro_samples
from cxrbase.evaluation.ranking import ranked_metrics

Floats = npt.NDArray[np.float64]

FEWEST = 30  # images; below, an interval says nothing


def subgroup_report(
    logits: Floats, test: Cohort, weights: npt.NDArray[np.generic], *, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Macro AUROC in each group, and the gap between the best and the worst, over the same resampled patients.

    Groups are compared on the classes that are defined in all of them. Both ends of the gap are found on the same
    images as its size, so a gap is somewhat too large by chance; its interval is of those two groups.

    Args:
        logits: (N, K) scores of the test images.
        test: Their labels and groups.
        weights: (R, N) multiplicities, by `cluster_weights`.
        classes: Names of the K classes.

    Returns:
        By variable: `groups` (images, patients, auroc with interval), `classes`, `gap` (value, low, high, best, worst)
        and `too_few`, the names of groups that are not scored: with fewer than `FEWEST` images, or without a defined
        class. Variables with fewer than two groups are left out.
    """
    once = np.concatenate([np.ones((1, len(test)), weights.dtype), weights])
    report = {}
    for name, group in test.groups.items():
        kinds = [str(kind) for kind in np.unique(group.astype(str)) if kind]
        if len(kinds) > 1:
            report[name] = _variable(logits, test, once, classes, group.astype(str), kinds)
    return report


def _variable(
    logits: Floats, test: Cohort, once: npt.NDArray[np.generic], classes: tuple[str, ...],
    group: npt.NDArray[np.str_], kinds: list[str],
) -> dict[str, Any]:  # fmt: skip
    rows = {kind: np.flatnonzero(group == kind) for kind in kinds}
    areas = {
        kind: ranked_metrics(logits[own], test.labels[own], once[:, own])["auroc"]
        for kind, own in rows.items()
        if len(own) >= FEWEST
    }
    # A small group must not take a class away from the others: groups without any defined class do not count.
    areas = {kind: area for kind, area in areas.items() if not np.isnan(area[0]).all()}
    shared = ~np.any([np.isnan(area[0]) for area in areas.values()], axis=0) if areas else np.zeros(len(classes), bool)
    means = (
        {kind: macro_samples(area, np.where(shared, area[0], np.nan)) for kind, area in areas.items()}
        if shared.any()
        else {}
    )
    result: dict[str, Any] = {
        "groups": {
            kind: {
                "images": len(rows[kind]),
                "patients": len(np.unique(test.patients[rows[kind]].astype(str))),
                "auroc": bounded(mean[0], mean[1:]),
            }
            for kind, mean in means.items()
        },
        "classes": [name for name, both in zip(classes, shared, strict=True) if both],
        "too_few": [kind for kind in kinds if kind not in means],
        "gap": None,
    }
    if len(means) > 1:
        best, worst = max(means, key=lambda kind: means[kind][0]), min(means, key=lambda kind: means[kind][0])
        gap = means[best] - means[worst]
        result["gap"] = {**bounded(gap[0], gap[1:]), "best": best, "worst": worst}
    return result
