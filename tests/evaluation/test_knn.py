"""Nearest neighbours against a double loop written from the protocol."""

import numpy as np
import pytest
from sklearn.covariance import oas
from sklearn.metrics import roc_auc_score

from cxrbase.evaluation import knn
from cxrbase.evaluation.knn import knn_scores


def problem(seed=0, bank=60, queries=25, width=7, classes=3):
    rng = np.random.default_rng(seed)
    labels = (rng.random((bank, classes)) < 0.4).astype(np.float32)
    return rng.normal(3, 1, (bank, width)), labels, rng.normal(3, 1, (queries, width))


def naive(bank, labels, queries, k, temperature):
    centre = bank.mean(0)
    values, vectors = np.linalg.eigh(oas(bank - centre, assume_centered=True)[0])
    whiten = vectors / np.sqrt(values)
    scores = np.full((len(queries), labels.shape[1]), np.nan)
    for column in range(labels.shape[1]):
        known = [i for i in range(len(bank)) if not np.isnan(labels[i, column])]
        for row, query in enumerate(queries):
            near = []
            for i in known:
                a, b = (bank[i] - centre) @ whiten, (query - centre) @ whiten
                near.append((float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), labels[i, column]))
            near.sort(key=lambda pair: -pair[0])
            weights = [np.exp(cosine / temperature) for cosine, _ in near[:k]]
            votes = [weight * label for weight, (_, label) in zip(weights, near[:k], strict=False)]
            if weights:
                scores[row, column] = sum(votes) / sum(weights)
    return scores


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (500, 0.2)])
def test_scores_equal_a_double_loop(k, temperature):
    bank, labels, queries = problem()
    got = knn_scores(bank, labels, queries, k=k, temperature=temperature)
    np.testing.assert_allclose(got, naive(bank, labels, queries, k, temperature), atol=1e-4)


def test_images_of_unknown_label_are_no_neighbours_for_that_class():
    bank, labels, queries = problem()
    labels[np.random.default_rng(1).random(labels.shape) < 0.5] = np.nan
    labels[:, 2] = np.nan
    got = knn_scores(bank, labels, queries, k=10)
    np.testing.assert_allclose(got, naive(bank, labels, queries, 10, 0.07), atol=1e-4)
    assert np.isnan(got[:, 2]).all()
    assert not np.isnan(got[:, :2]).any()


def test_chunks_do_not_change_the_scores(monkeypatch):
    bank, labels, queries = problem()
    whole = knn_scores(bank, labels, queries)
    monkeypatch.setattr(knn, "_CHUNK_ELEMENTS", 200)
    np.testing.assert_allclose(knn_scores(bank, labels, queries), whole, atol=1e-6)


def test_an_image_of_the_bank_has_the_label_of_itself_at_k_1():
    bank, labels, _ = problem()
    np.testing.assert_array_equal(knn_scores(bank, labels, bank, k=1), labels)


def test_a_common_offset_of_all_features_changes_nothing():
    bank, labels, queries = problem()
    moved = knn_scores(bank + 50, labels, queries + 50, k=5)
    np.testing.assert_allclose(moved, knn_scores(bank, labels, queries, k=5), atol=1e-3)


def test_a_class_in_a_faint_direction_is_found_beside_a_loud_one():
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (600, 40))
    features[:, 0] *= 100
    labels = (features[:, 1:2] > 0).astype(np.float32)
    features[:, 1] += 4 * labels[:, 0]
    found = knn_scores(features[:300], labels[:300], features[300:])
    assert roc_auc_score(labels[300:], found) > 0.9


@pytest.mark.parametrize("bank", [1, 2, 5])
def test_few_images_of_many_features_are_compared_as_they_are(bank):
    base, labels, queries = problem(bank=bank, width=300)
    scores = knn_scores(base, labels, queries, k=1)
    centred = base - base.mean(0), queries - base.mean(0)
    near, far = (part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in centred)
    if bank > 1:
        np.testing.assert_array_equal(scores, labels[(far @ near.T).argmax(1)])
    assert np.isfinite(scores).all()


def test_features_without_spread_give_finite_scores():
    _, labels, _ = problem()
    assert np.isfinite(knn_scores(np.full((60, 7), 3.0), labels, np.full((2, 7), 3.0))).all()


def test_no_queries_give_no_scores():
    bank, labels, queries = problem()
    assert knn_scores(bank, labels, queries[:0]).shape == (0, 3)


def test_what_makes_no_sense_is_refused():
    bank, labels, queries = problem()
    for options in ({"k": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="k must be at least 1"):
            knn_scores(bank, labels, queries, **options)
    for parts in ((bank, labels[:5], queries), (bank, labels, queries[:, :3]), (bank[:0], labels[:0], queries)):
        with pytest.raises(ValueError, match="must be \\(M, D\\)"):
            knn_scores(*parts)
