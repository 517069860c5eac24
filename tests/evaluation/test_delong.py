"""DeLong's variance against its definition, image by image, against hand-counted examples and against the bootstrap."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cxrbase.evaluation.delong import delong_covariance, delong_test
from cxrbase.evaluation.metrics import bootstrap_auroc, cluster_weights, interval


def by_definition(scores, labels):
    """Structural components of every image, as in equations 4 to 6 of DeLong et al. 1988."""
    positive, negative = scores[:, labels == 1], scores[:, labels == 0]
    wins = (positive[:, :, None] > negative[:, None]) + 0.5 * (positive[:, :, None] == negative[:, None])
    areas, v10, v01 = wins.mean((1, 2)), wins.mean(2), wins.mean(1)
    s10 = (v10 - areas[:, None]) @ (v10 - areas[:, None]).T / (v10.shape[1] - 1)
    s01 = (v01 - areas[:, None]) @ (v01 - areas[:, None]).T / (v01.shape[1] - 1)
    return areas, s10 / v10.shape[1] + s01 / v01.shape[1]


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(4, 40), levels=st.sampled_from([1, 3, 10**6]))
def test_areas_and_covariance_are_those_of_the_definition(seed, count, levels):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.r_[1, 1, 0, 0, rng.integers(0, 2, count - 4)])
    scores = np.round(rng.random((3, count)) * levels) / levels
    areas, covariance = delong_covariance(scores, labels)
    want_areas, want = by_definition(scores, labels)
    np.testing.assert_allclose(areas, [roc_auc_score(labels, row) for row in scores], atol=1e-12)
    np.testing.assert_allclose(areas, want_areas, atol=1e-12)
    np.testing.assert_allclose(covariance, want, atol=1e-12)


def test_a_case_counted_by_hand():
    # Positives 3 and 1, negatives 2 and 0: wins 1 1 / 0 1, so area 3/4; v10 = (1, 1/2), v01 = (1/2, 1).
    # Both variances are 1/8, and each is divided by 2 images.
    areas, covariance = delong_covariance([[3, 1, 2, 0]], [1, 1, 0, 0])
    assert areas[0] == 0.75
    assert covariance[0, 0] == pytest.approx(1 / 8)


# Albumin, total protein, Krebs-Goplerud score and whether surgery helped, of 43 patients with ovarian cancer: the
# example of DeLong et al. 1988, without its six patients that lack a test, as the SAS/STAT manual prints it ("Comparing
# Receiver Operating Characteristic Curves" of PROC LOGISTIC), with the areas, errors and tests that it reports.
OVARIAN = """
3.0 5.8 10 0   3.2 6.3  5 1   3.9 6.8  3 1   2.8 4.8  6 0   3.2 5.8  3 1   0.9 4.0  5 0   2.5 5.7  8 0
1.6 5.6  5 1   3.8 5.7  5 1   3.7 6.7  6 1   3.2 5.4  4 1   3.8 6.6  6 1   4.1 6.6  5 1   3.6 5.7  5 1
4.3 7.0  4 1   3.6 6.7  4 0   2.3 4.4  6 1   4.2 7.6  4 0   4.0 6.6  6 0   3.5 5.8  6 1   3.8 6.8  7 1
3.0 4.7  8 0   4.5 7.4  5 1   3.7 7.4  5 1   3.1 6.6  6 1   4.1 8.2  6 1   4.3 7.0  5 1   4.3 6.5  4 1
3.2 5.1  5 1   2.6 4.7  6 1   3.3 6.8  6 0   1.7 4.0  7 0   3.7 6.1  5 1   3.3 6.3  7 1   4.2 7.7  6 1
3.5 6.2  5 1   2.9 5.7  9 0   2.1 4.8  7 1   2.8 6.2  8 0   4.0 7.0  7 1   3.3 5.7  6 1   3.7 6.9  5 1
3.6 6.6  5 1
"""


def test_the_published_example():
    albumin, protein, score, helped = np.array(OVARIAN.split(), float).reshape(-1, 4).T
    areas, covariance = delong_covariance([10 - score, protein, albumin], helped)
    np.testing.assert_allclose(areas, [0.7258, 0.6478, 0.7366], atol=5e-5)
    np.testing.assert_allclose(np.sqrt(covariance.diagonal()), [0.1028, 0.1000, 0.0927], atol=5e-5)
    contrast = np.array([[-1, 1, 0], [-1, 0, 1]])
    difference, spread = contrast @ areas, contrast @ covariance @ contrast.T
    assert difference @ np.linalg.solve(spread, difference) == pytest.approx(2.5340, abs=5e-5)
    found = delong_test(albumin, 10 - score, helped)
    assert found.first - found.second == pytest.approx(0.0108, abs=5e-5)
    assert math.sqrt(found.variance) == pytest.approx(0.0953, abs=5e-5)
    assert found.p_value == pytest.approx(0.9102, abs=5e-5)


def test_the_p_value_is_that_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    good, poor = labels + rng.normal(size=300), 0.4 * labels + rng.normal(size=300)
    result = delong_test(good, poor, labels)
    (_, covariance) = by_definition(np.stack([good, poor]), labels)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert result.variance == pytest.approx(variance)
    assert result.z == pytest.approx((result.first - result.second) / math.sqrt(variance))
    assert result.p_value == pytest.approx(2 * (1 - 0.5 * (1 + math.erf(result.z / math.sqrt(2)))))
    again = delong_test(good, 2 * good + 1, labels)
    assert (again.z, again.p_value) == (0.0, 1.0)


def test_bootstrap_and_delong_agree_where_every_image_is_a_patient():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 600)
    first = labels + rng.normal(size=600)
    second = 0.6 * first + 0.4 * labels + 0.5 * rng.normal(size=600)
    weights = cluster_weights(np.arange(600).astype(str), resamples=4000, seed=0)
    areas = [bootstrap_auroc(s[:, None], labels[:, None], weights)[:, 0] for s in (first, second)]
    result = delong_test(first, second, labels)
    assert np.std(areas[0] - areas[1]) == pytest.approx(math.sqrt(result.variance), rel=0.05)
    low, high = interval(areas[0] - areas[1])
    half = 1.96 * math.sqrt(result.variance)
    np.testing.assert_allclose([low, high], [result.first - result.second + s * half for s in (-1, 1)], atol=0.004)


@pytest.mark.parametrize(
    ("scores", "labels", "match"),
    [
        ([[1, 2, 3]], [1, 0, 0], "at least 2 images"),
        ([[1, 2, 3, np.nan]], [1, 1, 0, 0], "finite"),
        ([[1, 2, 3, 4]], [1, 1, 0, 2], "of 0 and 1"),
        ([1, 2, 3, 4], [1, 1, 0, 0], "must be"),
    ],
)
def test_what_has_no_variance_is_refused(scores, labels, match):
    with pytest.raises(ValueError, match=match):
        delong_covariance(scores, labels)
