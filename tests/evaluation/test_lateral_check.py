"""A line between frontal and lateral features: where it lies, what it promises, and what it says of itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrbase.data.centre import few_rows
from cxrbase.evaluation.lateral_check import FALSE_ALARMS, LateralCheck, in_words
from cxrbase.evaluation.linear import LinearProbe


def features(count, *, away, seed, width=6):
    generator = np.random.default_rng(seed)
    # Far from 0 and of unequal spread, as features are.
    return (generator.normal(size=(count, width)) * np.arange(1, width + 1) + 40 + away).astype(np.float32)


def check_of(away, *, val=250, lateral=40):
    parts = [features(200, away=0, seed=0), features(50, away=away, seed=1)]
    parts += [features(val, away=0, seed=2), features(lateral, away=away, seed=3)]
    return LateralCheck.of(*parts), parts


def test_images_that_differ_are_told_apart():
    check, (_, _, val, lateral) = check_of(away=12)
    told = check.to_dict()
    assert told["train"] == {"frontal": 200, "lateral": 50}
    assert told["val"] == {"frontal": 250, "lateral": 40, "flagged_frontal": told["val"]["flagged_frontal"],
                           "flagged_lateral": 40}  # fmt: skip
    assert (told["sensitivity"], told["false_alarms"]) == (1.0, told["val"]["flagged_frontal"] / 250)
    assert check.flags(torch.from_numpy(lateral)).all()
    assert check.flags(torch.from_numpy(val)).sum() == told["val"]["flagged_frontal"]
    assert check.flags(torch.from_numpy(features(100, away=12, seed=9))).double().mean() > 0.95
    assert "a warning for 40 of 40 lateral" in in_words(told)


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 6), st.integers(1, 300))
def test_at_most_one_in_a_hundred_frontal_validation_images_is_flagged(away, val):
    check, parts = check_of(away, val=val)
    flagged = int(check.flags(torch.from_numpy(parts[2])).sum())
    assert flagged <= FALSE_ALARMS * val


def test_one_in_a_hundred_may_be_flagged_where_that_finds_more_of_the_lateral_ones():
    told = check_of(away=1, val=400, lateral=400)[0].to_dict()["val"]
    assert 2 <= told["flagged_frontal"] <= 4


def test_without_a_lateral_validation_image_nothing_is_said_of_sensitivity():
    check, parts = check_of(away=12, lateral=0)
    assert check.to_dict()["sensitivity"] is None
    assert check.flags(torch.from_numpy(parts[2])).sum() <= 2


def test_weights_without_standardisation_give_the_same_scores():
    train, labels = features(80, away=0, seed=0), np.random.default_rng(0).integers(0, 2, (80, 3)).astype(float)
    train[:, 2] = 7  # a constant feature has no scale
    probe = LinearProbe().fit(train, labels, train, labels)
    weights, intercepts = probe.unscaled()
    np.testing.assert_allclose(train @ weights.T + intercepts, probe.scores(train), rtol=1e-9, atol=1e-9)
    assert (weights[:, 2] == 0).all()


@pytest.mark.parametrize("told", [None, {"why_not": "the task keeps all views"}])
def test_what_was_not_fitted_is_said(told):
    assert in_words(told).startswith("views are not checked: ")


def test_rows_are_thinned_evenly():
    assert few_rows(np.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert few_rows(np.arange(3), 4).tolist() == [0, 1, 2]
    assert few_rows(np.arange(0), 4).tolist() == []
