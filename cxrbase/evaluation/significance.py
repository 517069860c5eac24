"""Differences between encoders: paired p-values, correction for many tests, and a bootstrap over seeds and patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxrbase.evaluation.behrens_fisher import behrens_fisher_p_value
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
        p_value: Two-sided; None where no resample is defined.
        seeds: Number of seeds of the smaller side; 1 where only patients were resampled.
        resamples: Number of resamples in which it is defined.
    """

    value: float
    low: float
    high: float
    p_value: float | None
    seeds: int = 1
    resamples: int = 0


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


def paired_difference(first: float, second: float, first_samples: Floats, second_samples: Floats) -> Difference:
    """Difference of a metric between two encoders whose (R,) samples come from the same resampled patients."""
    if first_samples.shape != second_samples.shape:
        raise ValueError(f"samples must be paired, got {first_samples.shape} and {second_samples.shape}")
    one, two = np.append(first, first_samples), np.append(second, second_samples)
    return hierarchical_difference([one], [two], paired_seeds=True)


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
    first: Sequence[Floats], second: Sequence[Floats], *, paired_seeds: bool = False, seed: int = 0
) -> Difference:
    """Difference of two methods, each trained with several seeds and scored on the same resampled patients.

    Seeds are drawn with replacement in each resample, patients are those of the samples. With n seeds the spread of
    their mean comes out too small by the factor sqrt((n - 1) / n), so each drawn mean is moved from the method's mean
    by its inverse; with one seed nothing is known of seeds, and only patients count.

    The p-value is counted among the resamples, as the interval is. Where all of them lie on one side of 0, counting
    says no more than that it is at most 2 / (R + 1), and a correction for many tests can make that large. There it is
    the smaller one of this and of what Behrens and Fisher's solution makes of the two spreads, but never below the
    square of the former: of tails further out resamples say nothing. More resamples would be no remedy: where two or
    three seeds happen to lie on one side of 0, so may all resamples, however many they are.

    Args:
        first: For each seed of the first method, (R + 1,): the metric on all patients, then on each resample.
        second: The same for the second method; the same resamples of patients.
        paired_seeds: Whether seed i of both started alike, so that they are drawn together.
        seed: Of the draw.

    Raises:
        ValueError: If a side has no seed, resamples differ, or seeds are paired and their numbers differ.
    """
    one, two = _table(first), _table(second)
    if one.shape[1] != two.shape[1] or (paired_seeds and len(one) != len(two)):
        raise ValueError(f"both sides must have the same resamples and paired seeds, got {one.shape} and {two.shape}")
    tables = [one - two] if paired_seeds else [one, -two]
    generator = np.random.default_rng(seed)
    size = one.shape[1] - 1
    drawn = [_mean_of_drawn(table, generator.integers(len(table), size=(size, len(table)))) for table in tables]
    samples = np.sum(drawn, axis=0)
    value = float(one[:, 0].mean() - two[:, 0].mean())
    defined = int((~np.isnan(samples)).sum())
    p_value = _p_value(samples, value, tables)
    return Difference(value, *interval(samples), p_value, min(len(one), len(two)), defined)


def _p_value(samples: Floats, value: float, tables: Sequence[Floats]) -> float | None:
    """Counted among the resamples, and finer where all lie on one side of 0; the tables (S, R + 1) add up to them."""
    counted = bootstrap_p_value(samples)
    least = least_counted(int((~np.isnan(samples)).sum()))
    if counted is None or counted > least or np.isnan(value):
        return counted
    repeated = [table for table in tables if len(table) > 1]
    finer = behrens_fisher_p_value(
        value,
        seeds_variance=float(sum(table[:, 0].var(ddof=1) / len(table) for table in repeated)),
        # Of two sides the fewer, which errs on the safe side.
        freedom=min((len(table) - 1 for table in repeated), default=0),
        patients_variance=float(np.nanvar(np.sum([table[:, 1:].mean(0) for table in tables], axis=0))),
    )
    return min(counted, max(finer, least**2))


def _table(runs: Sequence[Floats]) -> Floats:
    if not len(runs) or len({len(run) for run in runs}) > 1 or len(runs[0]) < 2:
        raise ValueError(f"each seed must have the metric and at least one resample, got {[len(run) for run in runs]}")
    return np.stack([np.asarray(run, np.float64) for run in runs])


def _mean_of_drawn(table: Floats, drawn: npt.NDArray[np.int64]) -> Floats:
    """Mean over the drawn seeds (R, S) of each resample of patients, from a table (S, R + 1)."""
    values = table[:, 1:].T
    means = np.take_along_axis(values, drawn, axis=1).mean(1)
    seeds = len(table)
    centre = values.mean(1)
    result: Floats = centre + (means - centre) * (np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 1.0)
    return result
