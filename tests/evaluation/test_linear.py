"""The linear probe against scikit-learn's logistic regression, and how it chooses its regularisation."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from cxrbase.evaluation import linear
from cxrbase.evaluation.linear import LinearProbe


def problem(seed=0, count=240, width=12, classes=3):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) * np.geomspace(0.01, 100, width) + 7
    latent = StandardScaler().fit_transform(mixed) @ np.random.default_rng(9).normal(size=(width, classes))
    return mixed, (latent + rng.logistic(0, 1, latent.shape) > 0.5).astype(float)


def reference(features, labels, value):
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=value, tol=1e-10, max_iter=10_000)
    return scaler, model.fit(scaler.transform(features), labels)


@pytest.mark.parametrize("value", [1e-4, 0.01, 1.0, 10.0])
def test_coefficients_equal_scikit_learn_at_the_same_c(value):
    train, labels = problem()
    val, val_labels = problem(seed=1)
    probe = LinearProbe(grid=[value]).fit(train, labels, val, val_labels)
    assert probe.regularisation.tolist() == [value] * 3
    for k in range(3):
        scaler, model = reference(train, labels[:, k], value)
        np.testing.assert_allclose(probe.coefficients[k], model.coef_[0], atol=1e-3)
        assert probe.intercepts[k] == pytest.approx(model.intercept_[0], abs=1e-3)
        log_odds = model.decision_function(scaler.transform(val))
        np.testing.assert_allclose(probe.scores(val)[:, k], log_odds, atol=5e-3)


def test_unknown_labels_are_left_out_of_the_loss_but_not_of_the_scaling():
    train, labels = problem()
    hidden = np.random.default_rng(3).random(labels.shape) < 0.4
    probe = LinearProbe(grid=[0.1]).fit(train, np.where(hidden, np.nan, labels), train, labels)
    standard = StandardScaler().fit_transform(train)
    for k in range(3):
        known = ~hidden[:, k]
        model = LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000).fit(standard[known], labels[known, k])
        np.testing.assert_allclose(probe.coefficients[k], model.coef_[0], atol=1e-3)


def test_a_class_of_one_label_in_training_is_undefined():
    train, labels = problem()
    labels[:, 0], labels[:, 1] = 0, np.nan
    probe = LinearProbe().fit(train, labels, train, problem()[1])
    scores = probe.scores(train)
    assert np.isnan(scores[:, :2]).all()
    assert np.isnan(probe.coefficients[:2]).all()
    assert roc_auc_score(labels[:, 2], scores[:, 2]) > 0.8


def test_each_class_takes_the_c_that_is_best_on_validation():
    train, labels = problem(count=80, width=40)
    val, val_labels = problem(seed=1, count=400, width=40)
    grid = [1e-4, 1e-2, 1.0]
    probe = LinearProbe(grid=grid[::-1]).fit(train, labels, val, val_labels)
    for k in range(3):
        areas = []
        for value in grid:
            scaler, model = reference(train, labels[:, k], value)
            areas.append(roc_auc_score(val_labels[:, k], model.decision_function(scaler.transform(val))))
        assert probe.regularisation[k] == grid[int(np.argmax(areas))]


def test_a_class_that_validation_cannot_judge_takes_what_suits_the_others():
    train, labels = problem()
    val, val_labels = problem(seed=1)
    judged = LinearProbe().fit(train, labels[:, 1:2], val, val_labels[:, 1:2])
    unjudged = val_labels.copy()
    unjudged[:, [0, 2]] = np.nan
    probe = LinearProbe().fit(train, labels, val, unjudged)
    assert probe.regularisation.tolist() == [judged.regularisation[0]] * 3
    nobody = LinearProbe(grid=[0.1, 1.0, 10.0]).fit(train, labels, val, val_labels * np.nan)
    assert nobody.regularisation.tolist() == [1.0] * 3


def test_of_equally_good_values_the_strongest_is_taken():
    labels, val_labels = (problem(seed=seed)[1][:, :1] for seed in (0, 1))
    rng = np.random.default_rng(0)
    # So far apart that every C orders the validation images without error.
    train, val = (truth + rng.normal(0, 0.01, (len(truth), 4)) for truth in (labels, val_labels))
    assert LinearProbe(grid=[1.0, 0.01, 0.1]).fit(train, labels, val, val_labels).regularisation == 0.01


def test_a_refit_keeps_the_c_and_learns_from_the_new_images():
    train, labels = problem()
    more, more_labels = problem(seed=2)
    probe = LinearProbe().fit(train, labels, more, more_labels)
    chosen = probe.regularisation.copy()
    both = np.concatenate([train, more]), np.concatenate([labels, more_labels])
    probe.refit(*both)
    np.testing.assert_array_equal(probe.regularisation, chosen)
    for k in range(3):
        _, model = reference(both[0], both[1][:, k], chosen[k])
        np.testing.assert_allclose(probe.coefficients[k], model.coef_[0], atol=1e-3)


def test_constant_features_and_more_features_than_images_do_no_harm():
    train, labels = problem(count=50, width=80)
    train[:, 5] = 1e6
    val, val_labels = problem(seed=1, count=50, width=80)
    scores = LinearProbe().fit(train, labels, val, val_labels).scores(val)
    assert np.isfinite(scores).all()
    assert np.abs(scores).max() < 1e3


def test_the_result_is_deterministic_and_does_not_need_autograd():
    import torch

    train, labels = problem()
    first = LinearProbe().fit(train, labels, train, labels).scores(train)
    with torch.inference_mode():
        np.testing.assert_array_equal(LinearProbe().fit(train, labels, train, labels).scores(train), first)


def test_a_large_table_gives_the_same_weights_and_the_same_c(monkeypatch):
    train, labels = problem(count=600)
    val, val_labels = problem(seed=1, count=400)
    small = LinearProbe().fit(train, labels, val, val_labels)
    monkeypatch.setattr(linear, "LARGE", 1)
    large = LinearProbe().fit(train, labels, val, val_labels)
    np.testing.assert_array_equal(large.regularisation, small.regularisation)
    np.testing.assert_allclose(large.coefficients, small.coefficients, atol=1e-4)
    np.testing.assert_allclose(large.scores(val), small.scores(val), atol=1e-4)


def test_what_makes_no_sense_is_refused():
    train, labels = problem()
    for grid in ([], [0.0, 1.0]):
        with pytest.raises(ValueError, match="values above 0"):
            LinearProbe(grid=grid)
    with pytest.raises(ValueError, match="must be \\(N, D\\)"):
        LinearProbe().fit(train, labels[:5], train, labels)
