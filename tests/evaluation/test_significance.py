"""p-values, Holm's correction and the bootstrap over seeds and patients against known truth and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbase.evaluation.metrics import auroc, bootstrap_auroc, cluster_weights, interval
from cxrbase.evaluation.significance import bootstrap_p_value, hierarchical_difference, holm, paired_difference
from evaluation.cases import cohort


def test_holm_on_the_example_of_its_definition():
    got = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert got == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(got) == ["a", "b", "c", "d"]
    assert holm({}) == {}
    with pytest.raises(ValueError, match="must be in"):
        holm({"a": 1.2})


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_step_down_procedure_rejects(p):
    corrected = holm({str(i): value for i, value in enumerate(p)})
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for rank, index in enumerate(np.argsort(p, kind="stable")):
            if (len(p) - rank) * p[index] > level:
                break
            rejected.add(str(index))
        assert {name for name, value in corrected.items() if value <= level} == rejected


def test_a_p_value_matches_its_interval():
    rng = np.random.default_rng(0)
    for shift in (0.0, 1.0, 1.9, 2.1, 5.0):
        samples = rng.normal(shift, 1, 20_000)
        low, high = interval(samples)
        assert (bootstrap_p_value(samples) < 0.05) == (low > 0 or high < 0)
    assert bootstrap_p_value(np.zeros(100)) == 1.0
    assert bootstrap_p_value(np.ones(99)) == pytest.approx(0.02)
    assert bootstrap_p_value([np.nan]) is None


def test_one_encoder_against_itself_is_no_difference():
    samples = np.random.default_rng(0).random(500)
    same = paired_difference(0.7, 0.7, samples, samples)
    assert (same.value, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="paired"):
        paired_difference(0.7, 0.7, samples, samples[:3])


def runs(seeds, spread, *, mean=0.7, seed=0, patients=0.02, resamples=2000):
    """Metrics of several seeds on the same patients: the patients' noise is common, the seeds' is not."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, patients, resamples + 1)
    common[0] = 0
    return [mean + rng.normal(0, spread) + common for _ in range(seeds)]


def test_seeds_widen_the_interval_by_their_own_spread():
    rng = np.random.default_rng(3)
    wide = []
    for trial in range(200):
        first, second = runs(5, 0.03, seed=int(rng.integers(2**31))), runs(5, 0.03, seed=int(rng.integers(2**31)))
        difference = hierarchical_difference(first, second, seed=trial)
        wide.append(difference.high - difference.low)
    # sqrt(2) * patients' spread, and sqrt(2 / 5) * the seeds' spread, which the drawing finds without bias.
    expected = 2 * 1.96 * np.sqrt(2 * 0.02**2 + 2 * 0.03**2 / 5)
    assert np.sqrt(np.mean(np.square(wide))) == pytest.approx(expected, rel=0.05)


def test_one_seed_leaves_the_patients_and_says_so():
    first, second = runs(1, 0.0, seed=1), runs(1, 0.0, seed=2, mean=0.6)
    alone = hierarchical_difference(first, second)
    paired = paired_difference(first[0][0], second[0][0], first[0][1:], second[0][1:])
    assert (alone.value, alone.low, alone.high) == pytest.approx((paired.value, paired.low, paired.high))
    assert alone.seeds == 1


def test_paired_seeds_cancel_what_they_share():
    rng = np.random.default_rng(0)
    start = rng.normal(0, 0.05, 6)
    common = rng.normal(0, 0.01, 1001)
    first = [0.7 + s + common for s in start]
    second = [0.65 + s + common for s in start]
    paired = hierarchical_difference(first, second, paired_seeds=True)
    apart = hierarchical_difference(first, second)
    assert paired.low == pytest.approx(0.05)
    assert apart.high - apart.low > 0.03
    assert paired.p_value < 0.01


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="same resamples"):
        hierarchical_difference([np.ones(5)], [np.ones(6)])
    with pytest.raises(ValueError, match="paired seeds"):
        hierarchical_difference([np.ones(5)] * 2, [np.ones(5)], paired_seeds=True)
    with pytest.raises(ValueError, match="at least one resample"):
        hierarchical_difference([], [np.ones(5)])


@pytest.mark.slow
def test_the_interval_over_patients_covers_the_truth_in_95_of_100_cohorts():
    # The truth is the AUROC of a cohort so large that its own error does not matter.
    scores, labels, _ = cohort(200_000, 1, seed=10**6)
    truth = auroc(scores, labels)[0]
    inside = 0
    for seed in range(1000):
        # Percentile intervals are a little short in small cohorts: with 150 patients 928 of 1,000 held the truth.
        scores, labels, patients = cohort(400, 1, seed=seed)
        samples = bootstrap_auroc(scores, labels, cluster_weights(patients, resamples=1000, seed=seed))
        low, high = interval(samples[:, 0])
        inside += low <= truth <= high
    assert 930 <= inside <= 970
