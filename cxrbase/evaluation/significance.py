"""Differences between encoders: over seeds, draws of labels and patients, with correction for many tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxrbase.evaluation.behrens_fisher import behrens_fisher_margin, behrens_fisher_p_value
from cxrbase.evaluation.metrics import interval

Floats = npt.NDArray[np.float64]
LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """A difference of two encoders with its uncertainty.

    Args:
        value: First minus second.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p_value: Two-sided; None where it is undefined, or fewer than half of the resamples are defined.
        seeds: Number of seeds of the smaller side.
        draws: Number of draws of labels.
        resamples: Number of resamples in which it is defined.
        counted: Whether interval and p-value are of the resamples alone, as with one seed and one draw.
    """

    value: float
    low: float
    high: float
    p_value: float | None
    seeds: int = 1
    draws: int = 1
    resamples: int = 0
    counted: bool = True


def bootstrap_p_value(samples: npt.ArrayLike) -> float | None:
    """Two-sided p-value that a difference is 0, by the share of resamples beyond 0; it matches the percentile interval.

    Args:
        samples: (R,) differences in each resample; NaN ones are left out.

    Returns:
        At least 2 / (R + 1), at most 1; None without a defined resample.
    """
    values = np.asarray(samples, np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    # Ties with 0 count on both sides: two equal encoders have p = 1.
    tail = min((values <= 0).sum(), (values >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(values) + 1)))


def least_counted(resamples: int) -> float:
    """The smallest p-value that counting among resamples can give: where all of them lie on one side of 0."""
    return min(1.0, 2 / (resamples + 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Corrects p-values for their number, so that the chance of any false claim stays below the level (Holm 1979).

    Args:
        p_values: By name of the test, in [0, 1]; leave out tests that are not defined.

    Returns:
        Corrected p-values, in [0, 1], never below the given ones.

    Raises:
        ValueError: If one is outside [0, 1].
    """
    if wrong := {name: p for name, p in p_values.items() if not 0 <= p <= 1}:
        raise ValueError(f"p-values must be in [0, 1], got {wrong}")
    corrected, highest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}


def hierarchical_difference(
    first: Sequence[Floats], second: Sequence[Floats], *, paired_seeds: bool = False
) -> Difference:
    """Difference of two methods, each trained with several seeds and scored on the same resampled patients.

    Each seed may have been scored with several draws of few labels, the same for all seeds of both methods. Its error
    then has three parts: of seeds, of draws and of patients. With one seed and one draw only patients count, and
    interval and p-value are of the resamples.

    Else both are by Behrens and Fisher's solution, and the interval excludes 0 where p is below 0.05. Drawing seeds
    with replacement would not do: two or three that happen to lie on one side of 0 do so in every resample, and among
    true nulls p would be below 0.05 in up to a third of cases. What varies between seeds and draws is added up and
    takes the degrees of freedom of the fewest, which errs on the safe side (Mickey and Brown 1966, Annals of
    Mathematical Statistics 37, 639).

    No p-value is below the square of the least that counting among the resamples can give: of tails further out they
    say nothing of patients. Where fewer than half of the resamples are defined, there is neither interval nor p-value.

    Args:
        first: For each seed of the first method, (R + 1,): the metric on all patients, then on each resample; or
            (D, R + 1), for each draw of labels.
        second: The same for the second method; the same draws, and the same resamples of patients.
        paired_seeds: Whether seed i of both started alike, so that what it does to both is no difference.

    Raises:
        ValueError: If a side has no seed, draws or resamples differ, or seeds are paired and their numbers differ.
    """
    one, two = _table(first), _table(second)
    if one.shape[1:] != two.shape[1:] or (paired_seeds and len(one) != len(two)):
        raise ValueError(
            f"both sides must have the same draws, the same resamples and paired seeds, got {one.shape} and {two.shape}"
        )
    value, samples = one[..., 0].mean() - two[..., 0].mean(), one[..., 1:].mean((0, 1)) - two[..., 1:].mean((0, 1))
    counts = {"seeds": min(len(one), len(two)), "draws": one.shape[1], "resamples": int((~np.isnan(samples)).sum())}
    sides = [one - two] if paired_seeds else [one, two]
    # A draw is the same for all: of both methods, whether their seeds are paired or not.
    by_draw = one[..., 0].mean(0) - two[..., 0].mean(0)
    repeats = [side for side in [*(side[..., 0].mean(1) for side in sides), by_draw] if len(side) > 1]
    if counts["resamples"] < len(samples) / 2:  # as for `interval`
        return Difference(float(value), np.nan, np.nan, None, **counts, counted=not repeats)
    if not repeats:
        return Difference(float(value), *interval(samples), _counted(float(value), samples), **counts)
    return _over_repeats(float(value), samples, repeats, counts)


def hierarchical_mean(runs: Sequence[Floats]) -> Difference:
    """Mean of one method over seeds and draws of labels with its interval, as a difference from 0.

    Args:
        runs: For each seed, (R + 1,) or (D, R + 1), as in `hierarchical_difference`.
    """
    return hierarchical_difference(runs, list(np.zeros_like(_table(runs))), paired_seeds=True)


def _counted(value: float, samples: Floats) -> float | None:
    """Counted among resamples of patients; where all lie on one side of 0, by their spread, which is finer."""
    counted = bootstrap_p_value(samples)
    least = least_counted(int((~np.isnan(samples)).sum()))
    if counted is None or counted > least or np.isnan(value):
        return counted
    finer = behrens_fisher_p_value(value, repeats_variance=0.0, freedom=0, patients_variance=float(np.nanvar(samples)))
    return min(counted, max(finer, least**2))


def _over_repeats(value: float, samples: Floats, repeats: Sequence[Floats], counts: dict[str, int]) -> Difference:
    """By Behrens and Fisher, from values (S,) by seed of each side and (D,) by draw, where there are several."""
    if np.isnan(value) or counts["resamples"] < 2:
        return Difference(value, np.nan, np.nan, None, **counts, counted=False)
    by_repeats = float(sum(means.var(ddof=1) / len(means) for means in repeats))
    by_patients = float(np.nanvar(samples, ddof=1))
    freedom = min(len(means) - 1 for means in repeats)
    margin = behrens_fisher_margin(repeats_variance=by_repeats, freedom=freedom, patients_variance=by_patients)
    found = behrens_fisher_p_value(value, repeats_variance=by_repeats, freedom=freedom, patients_variance=by_patients)
    p_value = max(found, least_counted(counts["resamples"]) ** 2)
    return Difference(value, value - margin, value + margin, p_value, **counts, counted=False)


def _table(runs: Sequence[Floats]) -> Floats:
    """(S, D, R + 1) of S seeds and D draws."""
    tables = [np.atleast_2d(np.asarray(run, np.float64)) for run in runs]
    if not tables or len({table.shape for table in tables}) > 1 or tables[0].shape[1] < 2:
        shapes = [table.shape for table in tables]
        raise ValueError(
            f"each seed must have the same draws and the metric with at least one resample of each, got {shapes}"
        )
    return np.stack(tables)
