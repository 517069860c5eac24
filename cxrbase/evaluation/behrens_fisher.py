"""How sure a difference is whose error is of few repeats, such as seeds, and of many patients."""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_NORMAL = np.linspace(-8.0, 8.0, 1001)
_WEIGHTS = np.exp(-(_NORMAL**2) / 2) / np.exp(-(_NORMAL**2) / 2).sum()
_TINY = 1e-30  # in place of a variance of 0, which gives a step


def behrens_fisher_p_value(
    difference: float, *, repeats_variance: float, freedom: int, patients_variance: float
) -> float:
    """Two-sided p-value that a difference is 0, by the solution of Behrens and Fisher.

    The spread over n seeds is known from n - 1 degrees of freedom, so its part of the error has Student's distribution;
    that over many patients is normal. With two seeds that scatter a difference of ten standard errors says little, and
    with one seed only patients count and this is the bootstrap test of pROC (https://rdrr.io/pkg/pROC/man/roc.test.html).
    It rejects no true null hypothesis more often than its level says (Robinson 1976, Annals of Statistics 4, 963;
    https://search.r-project.org/CRAN/refmans/asht/html/bfTest.html).

    Args:
        difference: As measured.
        repeats_variance: Of its mean over seeds, or over whatever else is repeated a few times.
        freedom: Degrees of freedom of that variance; 0 where nothing is repeated.
        patients_variance: Of its mean over patients.

    Returns:
        In [0, 1]; 0 where there is no spread at all.
    """
    from scipy.special import stdtr

    patients = math.sqrt(max(patients_variance, _TINY))
    if freedom < 1:
        return math.erfc(abs(difference) / patients / math.sqrt(2))
    beyond = (abs(difference) - patients * _NORMAL) / math.sqrt(max(repeats_variance, _TINY))
    return float(min(1.0, 2 * (_WEIGHTS * stdtr(freedom, -beyond)).sum()))


def behrens_fisher_margin(
    *, repeats_variance: float, freedom: int, patients_variance: float, level: float = 0.95
) -> float:
    """Half the width of the interval of a difference: the one whose p-value is 1 - level.

    Args:
        repeats_variance: As in `behrens_fisher_p_value`.
        freedom: Likewise, at least 1.
        patients_variance: Likewise.
        level: How often the interval holds the truth, at least; in (0, 1).

    Raises:
        ValueError: If the freedom or the level is out of range.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri, stdtrit

    if freedom < 1 or not 0.0 < level < 1.0:
        raise ValueError(f"freedom must be at least 1 and level in (0, 1), got {freedom} and {level}")
    spread = {"repeats_variance": repeats_variance, "patients_variance": patients_variance}
    # Each part goes beyond its own quantile with half the probability, so their sum with no more than the whole.
    tail = 1 - (1 - level) / 4
    repeats, patients = (math.sqrt(max(variance, _TINY)) for variance in spread.values())
    most = stdtrit(freedom, tail) * repeats + ndtri(tail) * patients

    def above_level(width: float) -> float:
        return behrens_fisher_p_value(width, freedom=freedom, **spread) - (1 - level)

    return float(brentq(above_level, 0.0, most, xtol=1e-6 * most))
