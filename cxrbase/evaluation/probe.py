"""The frozen-feature protocol: linear probe and kNN on one test set, with intervals over patients."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cxrbase.errors import EncoderError, ManifestError
from cxrbase.evaluation.knn import knn_scores
from cxrbase.evaluation.linear import LinearProbe
from cxrbase.evaluation.metrics import auroc, bootstrap_auroc, cluster_weights, interval, macro, macro_samples

Floats = npt.NDArray[np.float64]

HELD_OUT = 0.2  # share of the training patients that chooses the regularisation where there is no validation split


@dataclass(frozen=True, eq=False)
class Labelled:
    """Features of one split with what is known about the images.

    Args:
        features: (N, D).
        labels: (N, K), 1 present, 0 absent, NaN unknown.
        patients: (N,) strings.
    """

    features: npt.NDArray[np.floating[Any]]
    labels: npt.NDArray[np.floating[Any]]
    patients: npt.NDArray[np.str_]

    def __post_init__(self) -> None:
        """Checks that the three belong together."""
        shapes = self.features.shape, self.labels.shape, self.patients.shape
        if [len(shape) for shape in shapes] != [2, 2, 1] or len({shape[0] for shape in shapes}) > 1:
            raise ValueError(f"features, labels and patients must be (N, D), (N, K) and (N,), got {shapes}")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.features)

    def take(self, rows: npt.NDArray[np.bool_]) -> "Labelled":
        """The images where `rows` (N,) is true."""
        return Labelled(self.features[rows], self.labels[rows], self.patients[rows])


@dataclass(frozen=True)
class Score:
    """A macro AUROC, or a difference of two, with its 95 % interval over patients.

    Args:
        value: Mean over the defined classes.
        low: Lower end of the interval; NaN where no resample was defined.
        high: Upper end of the interval.
        per_class: AUROC of each class; None where the class is undefined.
        per_class_interval: Its interval; None where the class or every resample of it is undefined. Differences have
            none.
        left_out: Resamples that lack one of the classes and do not count in the interval.
    """

    value: float
    low: float
    high: float
    per_class: dict[str, float | None]
    per_class_interval: dict[str, tuple[float, float] | None] = field(default_factory=dict)
    left_out: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON: plain numbers, None for what is undefined."""
        ends = {name: _number(getattr(self, name)) for name in ("value", "low", "high")}
        told: dict[str, Any] = {"per_class": dict(self.per_class)}
        if self.per_class_interval:
            told["per_class_interval"] = {name: ends and list(ends) for name, ends in self.per_class_interval.items()}
        return {**ends, **told, "resamples_left_out": self.left_out}


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """How well frozen features tell the classes apart.

    Args:
        classes: Names of the K classes.
        n_train: Number of training images.
        n_test: Number of test images.
        linear: Score of the linear probe.
        knn: Score of the nearest neighbours.
        linear_samples: (R,) macro AUROC of the linear probe in each resample, for `compare`.
        knn_samples: (R,) the same of the neighbours.
        test_key: Fingerprint of the test labels, patients and resamples; equal ones can be compared.
        linear_scores: (N, K) log-odds of the linear probe for the test images, NaN for a class that is not defined.
    """

    classes: tuple[str, ...]
    n_train: int
    n_test: int
    linear: Score
    knn: Score
    linear_samples: Floats
    knn_samples: Floats
    test_key: str
    linear_scores: Floats

    def to_dict(self) -> dict[str, Any]:
        """For JSON: everything but the resamples and the scores of images."""
        counts = {
            "metric": "macro AUROC",
            "classes": list(self.classes),
            "n_train": self.n_train,
            "n_test": self.n_test,
        }
        return {**counts, "linear": self.linear.to_dict(), "knn": self.knn.to_dict()}


def plain_result(result: ProbeResult) -> dict[str, Any]:
    """A result in values that a checkpoint holds: numbers, words and lists."""
    arrays = ("linear_samples", "knn_samples", "linear_scores")
    return asdict(result) | {name: getattr(result, name).tolist() for name in arrays}


def result_of(plain: dict[str, Any]) -> ProbeResult:
    """The result that `plain_result` was given."""
    scores = {name: Score(**plain[name]) for name in ("linear", "knn")}
    arrays = {name: np.asarray(plain[name], np.float64) for name in ("linear_samples", "knn_samples", "linear_scores")}
    return ProbeResult(**(plain | scores | arrays))


def run_probe(
    train: Labelled,
    val: Labelled | None,
    test: Labelled,
    *,
    classes: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> ProbeResult:
    """Scores features by linear probe and nearest neighbours.

    The linear probe learns on the training images and chooses its regularisation on the validation images. Without a
    validation split, 20 % of the training patients choose it and the probe is then fitted on all of them.
    The neighbours are training images. The test images are scored once and choose nothing. A class is defined where
    both training and test images have positives and negatives; the others are None and not in the mean.

    Args:
        train: Images to learn from.
        val: Images to choose the regularisation on; None or empty for part of the training patients.
        test: Images to score.
        classes: Names of the K classes.
        resamples: Of the patient-clustered bootstrap.
        seed: Of the bootstrap and of the held-out training patients.

    Raises:
        ManifestError: If a split is empty, patients are shared between splits or no class is defined.
        EncoderError: If features are not finite.
    """
    names = tuple(classes)
    _check(train, val, test, names)
    defined = _both(train.labels) & _both(test.labels)
    if not defined.any():
        raise ManifestError(
            f"no class can be scored: none of {', '.join(names)} has both positive and negative images in the training "
            "and in the test split; label more images or choose other classes"
        )
    labels = np.where(defined, test.labels, np.nan).astype(np.float64)
    weights = cluster_weights(test.patients, resamples=resamples, seed=seed)
    linear = np.where(defined, _fit(train, val, seed).scores(test.features), np.nan)
    knn = knn_scores(train.features, train.labels, test.features)
    linear_score, linear_samples = _score(linear, labels, weights, names)
    knn_score, knn_samples = _score(np.where(defined, knn, np.nan), labels, weights, names)
    key = hashlib.sha256(repr((names, resamples, seed, test.patients.tolist())).encode() + labels.tobytes()).hexdigest()
    return ProbeResult(names, len(train), len(test), linear_score, knn_score, linear_samples, knn_samples, key, linear)


def compare(a: ProbeResult, b: ProbeResult) -> dict[str, Score]:
    """Paired difference a - b over the same resampled patients, which is narrower than two separate intervals.

    Args:
        a: Result on the same test images, classes, resamples and seed as `b`; training may differ.
        b: The other result.

    Returns:
        {"linear": ..., "knn": ...}; an interval that excludes 0 tells the two apart.

    Raises:
        ManifestError: If the two were not scored on the same images and classes.
    """
    if a.test_key != b.test_key:
        raise ManifestError(
            "two results can only be compared on the same test images, defined classes, resamples and seed; "
            f"got {a.n_test} and {b.n_test} test images; run both probes on the same manifest"
        )
    pairs = {"linear": a.linear_samples - b.linear_samples, "knn": a.knn_samples - b.knn_samples}
    return {name: _difference(getattr(a, name), getattr(b, name), samples) for name, samples in pairs.items()}


def _difference(a: Score, b: Score, samples: Floats) -> Score:
    per_class: dict[str, float | None] = {}
    for name, value in a.per_class.items():
        other = b.per_class[name]
        per_class[name] = None if value is None or other is None else value - other
    return Score(a.value - b.value, *interval(samples), per_class, left_out=int(np.isnan(samples).sum()))


def _score(
    scores: Floats, labels: Floats, weights: npt.NDArray[np.int16], names: tuple[str, ...]
) -> tuple[Score, Floats]:
    areas, resampled = auroc(scores, labels), bootstrap_auroc(scores, labels, weights)
    samples = macro_samples(resampled, areas)
    per_class = {name: _number(area) for name, area in zip(names, areas, strict=True)}
    ends = {name: interval(column) for name, column in zip(names, resampled.T, strict=True)}
    known = {name: None if per_class[name] is None or math.isnan(low) else (low, high) for name, (low, high) in
             ends.items()}  # fmt: skip
    left_out = int(np.isnan(samples).sum())
    return Score(macro(areas), *interval(samples), per_class, known, left_out), samples


def _fit(train: Labelled, val: Labelled | None, seed: int) -> LinearProbe:
    probe = LinearProbe()
    if val is not None and len(val):
        return probe.fit(train.features, train.labels, val.features, val.labels)
    names = np.unique(train.patients)
    held_out = np.random.default_rng(seed).permutation(names)[: math.ceil(HELD_OUT * len(names))]
    held = np.isin(train.patients, held_out)
    if held.all():  # a single patient: nobody can judge, and the probe takes the middle of its grid
        return probe.fit(train.features, train.labels, train.features, np.full(train.labels.shape, np.nan))
    rest, judge = train.take(~held), train.take(held)
    return probe.fit(rest.features, rest.labels, judge.features, judge.labels).refit(train.features, train.labels)


def _check(train: Labelled, val: Labelled | None, test: Labelled, names: tuple[str, ...]) -> None:
    splits = {"train": train, "val": val, "test": test}
    present = {name: split for name, split in splits.items() if split is not None and len(split)}
    for name in ("train", "test"):
        if name not in present:
            raise ManifestError(f"the {name} split must hold labelled images, got none; check the split column")
    for name, split in present.items():
        if split.labels.shape[1] != len(names):
            raise ValueError(f"{name} labels must have one column for each of {len(names)} classes, "
                             f"got {split.labels.shape[1]}")  # fmt: skip
        if not np.isfinite(split.features).all():
            raise EncoderError(
                f"features of the {name} split must be finite, got NaN or infinity; the encoder diverged"
            )
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        if first in present and second in present:
            shared = np.intersect1d(present[first].patients, present[second].patients)
            if len(shared):
                raise ManifestError(
                    f"patients must be in one split only, got {len(shared)} in both {first} and {second}, "
                    f"such as {str(shared[0])!r}; split by patient"
                )


def _both(labels: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
    both: npt.NDArray[np.bool_] = (labels == 1).any(0) & (labels == 0).any(0)
    return both


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
