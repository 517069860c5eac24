"""The test of a difference over seeds and patients against tables, simulation and the level that it must hold."""

import numpy as np
import pytest

from cxrbase.evaluation.behrens_fisher import behrens_fisher_margin, behrens_fisher_p_value


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262)])
def test_without_a_spread_of_patients_it_is_students_test(freedom, quantile):
    p = behrens_fisher_p_value(quantile * 0.1, repeats_variance=0.01, freedom=freedom, patients_variance=0.0)
    assert p == pytest.approx(0.05, rel=0.01)


@pytest.mark.parametrize("freedom", [0, 1, 4])
def test_without_a_spread_of_seeds_it_is_the_normal_test(freedom):
    for quantile, level in ((1.960, 0.05), (3.291, 0.001)):
        p = behrens_fisher_p_value(-quantile * 0.1, repeats_variance=0.0, freedom=freedom, patients_variance=0.01)
        assert p == pytest.approx(level, rel=0.05)


def test_both_spreads_together_as_drawn():
    rng = np.random.default_rng(0)
    for difference, seeds, freedom, patients in ((3.0, 1.0, 1, 1.0), (4.0, 0.5, 2, 1.0), (4.0, 2.0, 4, 0.3)):
        errors = np.sqrt(seeds) * rng.standard_t(freedom, 400_000) + np.sqrt(patients) * rng.normal(size=400_000)
        p = behrens_fisher_p_value(difference, repeats_variance=seeds, freedom=freedom, patients_variance=patients)
        assert p == pytest.approx((np.abs(errors) > difference).mean(), rel=0.05)


def test_no_spread_and_no_difference():
    assert behrens_fisher_p_value(0.1, repeats_variance=0.0, freedom=2, patients_variance=0.0) == pytest.approx(0.0)
    assert behrens_fisher_p_value(0.0, repeats_variance=0.1, freedom=2, patients_variance=0.1) == pytest.approx(1.0)
    assert behrens_fisher_p_value(0.0, repeats_variance=0.0, freedom=0, patients_variance=0.0) == 1.0


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.3, 1.0, 5.0])
def test_a_true_null_is_rejected_no_more_often_than_the_level(seeds, spread):
    rng = np.random.default_rng(seeds)
    trials, level = 4000, 0.01
    runs = rng.normal(0, spread, (trials, seeds))
    found = runs.mean(1) + rng.normal(0, 1, trials)
    rejected = sum(
        behrens_fisher_p_value(
            value, repeats_variance=own.var(ddof=1) / seeds, freedom=seeds - 1, patients_variance=1.0
        )
        < level
        for value, own in zip(found, runs, strict=True)
    )
    # Three standard errors of a count of that share.
    assert rejected <= trials * level + 3 * np.sqrt(trials * level)


@pytest.mark.parametrize(
    ("repeats", "freedom", "patients"), [(1.0, 1, 0.0), (1.0, 2, 1.0), (0.0, 4, 1.0), (1e-6, 1, 1e-9)]
)
@pytest.mark.parametrize("level", [0.95, 0.5])
def test_the_interval_ends_where_the_p_value_is_the_level(repeats, freedom, patients, level):
    spread = {"repeats_variance": repeats, "freedom": freedom, "patients_variance": patients}
    margin = behrens_fisher_margin(**spread, level=level)
    inside, outside = (behrens_fisher_p_value(by * margin, **spread) for by in (0.99, 1.01))
    assert inside > 1 - level > outside


def test_an_interval_that_cannot_be_is_refused():
    for wrong in ({"freedom": 0}, {"freedom": 1, "level": 1.0}):
        with pytest.raises(ValueError, match="at least 1 and level in"):
            behrens_fisher_margin(repeats_variance=1.0, patients_variance=1.0, **wrong)
