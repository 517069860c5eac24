"""How often chance alone gives a difference, where its error is of few seeds and of many patients."""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_NORMAL = np.linspace(-9.0, 9.0, 2001)
_WEIGHTS = np.exp(-(_NORMAL**2) / 2) / np.exp(-(_NORMAL**2) / 2).sum()
_TINY = 1e-30  # in place of a variance of 0, which gives a step


def behrens_fisher_p_value(
    difference: float, *, seeds_variance: float, freedom: int, patients_variance: float
) -> float:
    """Two-sided p-value that a difference is 0, by the solution of Behrens and Fisher.

    The spread over n seeds is known from n - 1 degrees of freedom, so its part of the error has Student's distribution;
    that over many patients is normal. With two seeds that scatter a difference of ten standard errors says little, and
    with one seed only patients count and this is the bootstrap test of pROC (https://rdrr.io/pkg/pROC/man/roc.test.html).
    It rejects no true null hypothesis more often than its level says (Robinson 1976, Annals of Statistics 4, 963;
    https://search.r-project.org/CRAN/refmans/asht/html/bfTest.html).

    Args:
        difference: As measured.
        seeds_variance: Of its mean over seeds.
        freedom: Degrees of freedom of that variance; 0 where there is one seed.
        patients_variance: Of its mean over patients.

    Returns:
        In [0, 1]; 0 where there is no spread at all.
    """
    patients = math.sqrt(max(patients_variance, _TINY))
    if freedom < 1:
        return math.erfc(abs(difference) / patients / math.sqrt(2))
    beyond = (abs(difference) - patients * _NORMAL) / math.sqrt(max(seeds_variance, _TINY))
    return float(min(1.0, 2 * (_WEIGHTS * student_tail(beyond, freedom)).sum()))


def student_tail(t: Floats, freedom: int) -> Floats:
    """Probability that Student's t exceeds given values, by the finite series for whole degrees of freedom.

    After Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.

    Args:
        t: Any values.
        freedom: Degrees of freedom, at least 1.
    """
    angle = np.arctan(np.asarray(t, np.float64) / math.sqrt(freedom))
    sine, cosine = np.sin(angle), np.cos(angle)
    first = freedom % 2
    term, total = cosine**first, np.zeros_like(angle)
    for power in range(first, freedom - 1, 2):
        total += term
        term = term * cosine**2 * (power + 1) / (power + 2)
    inside = 2 / np.pi * (angle + sine * total) if first else sine * total
    tail: Floats = (1 - inside) / 2
    return tail
