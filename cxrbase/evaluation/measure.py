"""All metrics of one set of scores: thresholds and temperatures from validation, values and intervals on test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxrbase.evaluation.calibration import CALIBRATED, calibrated, calibration_metrics, fit_temperature
from cxrbase.evaluation.decisions import Criterion, choose_thresholds, decision_metrics
from cxrbase.evaluation.metrics import interval, macro, macro_samples
from cxrbase.evaluation.ranking import ranked_metrics

Floats = npt.NDArray[np.float64]

SPECIFICITY = 0.95


@dataclass(frozen=True, eq=False)
class Measured:
    """All metrics of one set of scores on one test set.

    Args:
        classes: Names of the K classes.
        values: (K,) by metric; NaN where undefined.
        samples: (R, K) by metric, for each resample of patients.
        thresholds: (K,) on calibrated probabilities, chosen on validation; NaN where validation lacks a label.
        temperatures: (K,) fitted on validation; 1 where it lacks a label, which calibrates nothing. It is one for
            all of a multiclass task whose classes all have scores.
        scores: (N, K) log-odds of the test images before calibration, which AUROC and what else needs only their order
            are of. A shared temperature may move a few images past each other; any other one keeps their order.
        probabilities: (N, K) calibrated, of the test images; they sum to one where the temperature is shared.
    """

    classes: tuple[str, ...]
    values: dict[str, Floats]
    samples: dict[str, Floats]
    thresholds: Floats
    temperatures: Floats
    scores: Floats
    probabilities: Floats

    def macro(self, metric: str) -> Floats:
        """Mean over the defined classes on all patients, then on each resample, (R + 1,)."""
        samples = macro_samples(self.samples[metric], self.values[metric])
        return np.concatenate([[macro(self.values[metric])], samples])

    def undefined(self) -> list[str]:
        """Classes without an AUROC."""
        return [name for name, value in zip(self.classes, self.values["auroc"], strict=True) if np.isnan(value)]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: of each metric value and 95 % interval, macro and per class.

        `classes` are what the macro is over, and `resamples_left_out` those that lack one of these.
        What is undefined is None; so is the temperature of a class that validation cannot calibrate.
        """
        return {name: self._entry(name) for name in self.values} | {
            "threshold": self._per_class(self.thresholds),
            "temperature": self._per_class(np.where(np.isnan(self.thresholds), np.nan, self.temperatures)),
        }

    def _entry(self, metric: str) -> dict[str, Any]:
        whole = self.macro(metric)
        columns = zip(self.classes, self.values[metric], self.samples[metric].T, strict=True)
        per_class = {name: bounded(value, samples) for name, value, samples in columns}
        over = [name for name, value in zip(self.classes, self.values[metric], strict=True) if not np.isnan(value)]
        lacking = int(np.isnan(whole[1:]).sum())
        return {"macro": bounded(whole[0], whole[1:]), "per_class": per_class, "classes": over,
                "resamples_left_out": lacking}  # fmt: skip

    def _per_class(self, values: Floats) -> dict[str, float | None]:
        return {name: plain(value) for name, value in zip(self.classes, values, strict=True)}


def measure(
    val_logits: npt.ArrayLike,
    val_labels: npt.ArrayLike,
    test_logits: npt.ArrayLike,
    test_labels: npt.ArrayLike,
    weights: npt.NDArray[np.generic],
    *,
    classes: Sequence[str],
    kind: str = "multilabel",
    learnt: npt.NDArray[np.bool_] | None = None,
    criterion: Criterion = "youden",
) -> Measured:
    """Chooses on validation, then measures on test once.

    Args:
        val_logits: (V, K) scores of the validation images, as log-odds; NaN columns for classes without scores.
        val_labels: (V, K), 1 present, 0 absent, NaN unknown.
        test_logits: (N, K) scores of the test images.
        test_labels: (N, K).
        weights: (R, N) multiplicities of the test images, by `cluster_weights`.
        classes: Names of the K classes.
        kind: Of the task: binary, multilabel or multiclass.
        learnt: (K,), which classes are scored; the others count in what a softmax sums to one. None takes all.
        criterion: What the threshold makes largest on validation.
    """
    labels = np.asarray(test_labels, np.float64)
    # The order of logits, and not of probabilities, which may round to 1.
    temperatures, (chosen_on, chances), ranks = _calibrated(val_logits, val_labels, test_logits, kind, learnt)
    thresholds = choose_thresholds(chosen_on, val_labels, criterion=criterion)
    every = np.concatenate([np.ones((1, len(labels)), weights.dtype), weights])
    found = ranked_metrics(ranks, labels, every, specificity=SPECIFICITY)
    found |= decision_metrics(chances, labels, every, thresholds=thresholds)
    found |= calibration_metrics(chances, labels, every)
    # Of a class that is not learnt or has one label they would look good, and without validation nothing is calibrated.
    uncalibrated = np.isnan(found["auroc"][0]) | np.isnan(thresholds)
    for name in CALIBRATED:
        found[name][:, uncalibrated] = np.nan
    values, samples = {n: v[0] for n, v in found.items()}, {n: v[1:] for n, v in found.items()}
    return Measured(tuple(classes), values, samples, thresholds, temperatures, ranks, chances)


def _calibrated(
    val_logits: npt.ArrayLike, val_labels: npt.ArrayLike, test_logits: npt.ArrayLike, kind: str,
    learnt: npt.NDArray[np.bool_] | None,
) -> tuple[Floats, tuple[Floats, Floats], Floats]:  # fmt: skip
    """Temperatures (K,), probabilities of validation (V, K) and test (N, K), and the scores of the latter (N, K)."""
    from scipy.special import expit

    val, test = np.array(val_logits, np.float64), np.array(test_logits, np.float64)
    # Where a class has no scores, those of the others sum to nothing, and each is calibrated by itself.
    one_of = kind == "multiclass" and not (np.isnan(val).any() or np.isnan(test).any())
    left_out = np.zeros(val.shape[1], bool) if learnt is None else ~learnt
    temperatures = fit_temperature(val, val_labels, one_of=one_of)
    temperatures[left_out & (not one_of)] = 1.0
    chosen_on, chances = (expit(calibrated(logits, temperatures, one_of=one_of)) for logits in (val, test))
    for table in (chosen_on, chances, test):
        table[:, left_out] = np.nan
    return temperatures, (chosen_on, chances), test


def top1(found: Measured, labels: npt.ArrayLike, weights: npt.NDArray[np.generic], *, kind: str) -> dict[str, Floats]:
    """`top1_accuracy`, the share of test images whose likeliest class is theirs, over those that have exactly one.

    Args:
        found: Of the test images.
        labels: (N, K) of them.
        weights: (R, N) multiplicities, by `cluster_weights`.
        kind: Of the task.

    Returns:
        (R + 1,) by metric, on all patients and then on each resample; NaN where a resample has none of those images.
        Nothing where the task is not `multiclass`, no image has exactly one class, or a class has no scores.
    """
    truth = np.asarray(labels, np.float64)
    single = (np.nansum(truth, axis=1) == 1) & ~np.isnan(found.scores).any(1)
    if kind != "multiclass" or not single.any():
        return {}
    right = found.scores[single].argmax(1) == np.nan_to_num(truth[single]).argmax(1)
    every = np.concatenate([np.ones((1, int(single.sum()))), weights[:, single]])
    with np.errstate(invalid="ignore"):
        return {"top1_accuracy": every @ right.astype(float) / every.sum(1)}


def shared(macro: dict[str, Floats]) -> dict[str, dict[str, Any]]:
    """Metrics (R + 1,) that are of all classes together, as `top1` gives them, for JSON."""
    return {name: {"macro": bounded(float(values[0]), values[1:])} for name, values in macro.items()}


def bounded(value: float, samples: npt.ArrayLike) -> dict[str, float | None]:
    """A value with its 95 % interval, for JSON; None where undefined."""
    low, high = interval(samples)
    return {"value": plain(value), "low": plain(low), "high": plain(high)}


def plain(value: float) -> float | None:
    """A number that JSON knows; None for NaN."""
    return None if math.isnan(value) else float(value)
