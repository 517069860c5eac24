"""p-values, Holm's correction and the bootstrap over seeds and patients against known truth and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbase.evaluation.behrens_fisher import behrens_fisher_margin
from cxrbase.evaluation.metrics import auroc, bootstrap_auroc, cluster_weights, interval
from cxrbase.evaluation.significance import (
    bootstrap_p_value,
    hierarchical_difference,
    hierarchical_mean,
    holm,
    least_counted,
)
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
    run = np.random.default_rng(0).random(501)
    same = hierarchical_difference([run], [run], paired_seeds=True)
    assert (same.value, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)


def runs(seeds, spread, *, mean=0.7, seed=0, patients=0.02, resamples=2000):
    """Metrics of several seeds on the same patients: the patients' noise is common, the seeds' is not."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, patients, resamples + 1)
    common[0] = 0
    return [mean + rng.normal(0, spread) + common for _ in range(seeds)]


def test_seeds_widen_the_interval_by_their_own_spread_and_their_number():
    rng = np.random.default_rng(3)
    wide = []
    for _ in range(200):
        first, second = runs(5, 0.03, seed=int(rng.integers(2**31))), runs(5, 0.03, seed=int(rng.integers(2**31)))
        difference = hierarchical_difference(first, second)
        wide.append((difference.high - difference.low) / 2)
    expected = behrens_fisher_margin(repeats_variance=2 * 0.03**2 / 5, freedom=4, patients_variance=2 * 0.02**2)
    assert np.sqrt(np.mean(np.square(wide))) == pytest.approx(expected, rel=0.05)
    assert expected > 1.96 * np.sqrt(2 * 0.02**2 + 2 * 0.03**2 / 5)  # as if five seeds told their spread exactly


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("ratio", [0.5, 2, 10])
def test_equal_methods_are_told_apart_in_5_of_100_comparisons_and_the_interval_agrees(seeds, ratio):
    rng, trials, rejected, held = np.random.default_rng([seeds, int(10 * ratio)]), 400, 0, 0
    for _ in range(trials):
        patients, shift = rng.normal(0, 0.01, 201), rng.normal(0, 0.01 * ratio, seeds)
        patients[1:] += patients[0]
        second = 0.6 + rng.normal(0, 0.02, 201)  # moves both alike
        found = hierarchical_difference([second + patients + by for by in shift], [second] * seeds, paired_seeds=True)
        inside = found.low <= 0 <= found.high
        assert (found.p_value < 0.05) != inside
        rejected, held = rejected + (found.p_value < 0.05), held + inside
    assert rejected <= 0.065 * trials
    assert held >= 0.93 * trials


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("spread", [0.0, 0.02, 0.04])
def test_a_draw_of_labels_that_suits_one_method_by_chance_is_part_of_the_error(spread, paired):
    rng, trials, rejected = np.random.default_rng(int(100 * spread)), 200, 0
    for _ in range(trials):
        draws, patients = rng.normal(0, spread, 3), rng.normal(0, 0.012, 201)
        patients[1:] += patients[0]
        first = [0.6 + patients + draws[:, None] + rng.normal(0, 0.005, (3, 1)) for _ in range(5)]
        second = [np.full((3, 201), 0.6)] * 5
        found = hierarchical_difference(first, second, paired_seeds=paired)
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)
        rejected += found.p_value < 0.05
    assert found.draws == 3
    assert rejected <= 0.07 * trials


def test_what_a_draw_of_labels_does_to_both_methods_is_no_difference():
    rng = np.random.default_rng(0)
    draws, common = rng.normal(0, 0.1, (3, 1)), rng.normal(0, 0.02, 501)
    own = [0.6 + draws + common + rng.normal(0, 0.001) for _ in range(3)]
    found = hierarchical_difference([run + 0.02 for run in own], own, paired_seeds=True)
    assert (found.low, found.high) == pytest.approx((0.02, 0.02))
    mean = hierarchical_mean(own)
    assert mean.high - mean.low > 0.1
    assert (mean.seeds, mean.draws) == (3, 3)
    with pytest.raises(ValueError, match="same draws"):
        hierarchical_difference(own, [run[:2] for run in own], paired_seeds=True)


def test_one_seed_leaves_the_patients_and_says_so():
    first, second = runs(1, 0.0, seed=1), runs(1, 0.0, seed=2, mean=0.6)
    alone = hierarchical_difference(first, second)
    paired = hierarchical_difference(first, second, paired_seeds=True)
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


def trained(differences, *, patients=0.003, resamples=1000, seed=0):
    """Two methods whose seeds differ by the given amounts, on patients that move both and a little of each alone."""
    rng = np.random.default_rng(seed)
    common, own = rng.normal(0, 0.02, resamples), rng.normal(0, patients, resamples)
    shift = rng.normal(0, patients)
    second = [np.array([0.6, *(0.6 + common)])] * len(differences)
    first = [np.array([0.6 + by + shift, *(0.6 + by + shift + common + own)]) for by in differences]
    return first, second


def test_what_all_resamples_agree_on_survives_the_correction_for_many_tests():
    clear = hierarchical_difference(*trained([0.050, 0.051, 0.049, 0.052, 0.048]), paired_seeds=True)
    assert clear.resamples == 1000
    assert clear.p_value < least_counted(1000) == 2 / 1001
    others = dict.fromkeys(map(str, range(44)), 0.5)
    assert holm({"clear": clear.p_value} | others)["clear"] < 0.05
    # Counting alone could not have said so.
    assert holm({"clear": least_counted(1000)} | others)["clear"] > 0.05


def test_a_p_value_is_finer_by_no_more_than_as_many_digits_again():
    constant = hierarchical_difference([np.full(1001, 0.9)] * 3, [np.full(1001, 0.5)] * 3, paired_seeds=True)
    assert constant.p_value == pytest.approx((2 / 1001) ** 2)
    few = hierarchical_difference([np.full(11, 0.9)], [np.full(11, 0.5)])
    assert few.p_value == pytest.approx((2 / 11) ** 2)


def test_seeds_that_scatter_establish_nothing_though_all_resamples_agree():
    first, second = trained([0.10, 0.02], patients=0.0005)
    assert min((one - two).min() for one, two in zip(first, second, strict=True)) > 0
    scattered = hierarchical_difference(first, second, paired_seeds=True)
    assert scattered.low < 0 < scattered.high
    # Student's test of two values.
    assert scattered.p_value == pytest.approx(1 - 2 / np.pi * np.arctan(0.06 / 0.04), rel=0.02)


@pytest.mark.parametrize("seeds", [3, 5])
def test_seeds_that_agree_survive_the_correction_for_ten_arms(seeds):
    agreeing = hierarchical_difference(*trained([0.050, 0.0504, 0.0496, 0.0501, 0.0499][:seeds]), paired_seeds=True)
    others = dict.fromkeys(map(str, range(44)), 0.5)
    assert holm({"agreeing": agreeing.p_value} | others)["agreeing"] < 0.05


def test_undefined_resamples_are_left_out_of_the_number():
    first, second = trained([0.05, 0.051, 0.049])
    first[0][3:13] = np.nan
    found = hierarchical_difference(first, second, paired_seeds=True)
    assert found.resamples == 990
    assert found.p_value < 2 / 991
    first[0][0] = np.nan
    nothing = hierarchical_difference(first, second, paired_seeds=True)
    assert nothing.p_value is None
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("undefined", [500, 501, 995, 1000])
def test_the_fewer_half_of_the_resamples_gives_neither_interval_nor_p_value(seeds, undefined):
    first, second = trained([0.05, 0.051, 0.049][:seeds])
    first[0][1 : undefined + 1] = np.nan
    found = hierarchical_difference(first, second, paired_seeds=True)
    assert (found.resamples, found.counted) == (1000 - undefined, seeds == 1)
    assert found.value == pytest.approx(0.05, abs=0.01)
    assert np.isnan([found.low, found.high]).tolist() == [undefined > 500] * 2
    assert (found.p_value is None) == (undefined > 500)


@pytest.mark.parametrize("paired", [True, False])
def test_equal_methods_get_small_p_values_no_more_often_than_they_say(paired):
    rng, small = np.random.default_rng(5), 0
    for trial in range(1500):
        # Seeds scatter three times as much as patients: among three, all resamples often lie on one side of 0.
        first, second = trained(rng.normal(0, 0.009, 3), resamples=100, seed=trial)
        small += hierarchical_difference(first, second, paired_seeds=paired).p_value < 0.002
    assert small <= 1500 * 0.002 + 3 * np.sqrt(1500 * 0.002)


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
