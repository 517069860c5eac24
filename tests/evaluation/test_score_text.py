"""Numbers read the same wherever they are shown."""

from cxrbase.evaluation.score_text import gap_text, score_text


def test_a_score_is_shown_with_its_interval_and_a_difference_with_signs():
    score = {"value": 0.81249, "low": 0.7, "high": 0.9}
    assert score_text(score) == "0.812 [0.700, 0.900]"
    assert score_text(score | {"low": -0.1}, "+.3f") == "+0.812 [-0.100, +0.900]"
    assert gap_text({"difference": -0.02, "low": -0.05, "high": 0.0104, "p": 0.3}) == "-0.020 [-0.050, +0.010]"
    assert score_text({"value": None, "low": None, "high": None}) == "undefined"
    without = "0.812 (no interval: too few resamples hold every class)"
    assert score_text(score | {"low": None, "high": None}) == score_text(score | {"low": float("nan")}) == without
