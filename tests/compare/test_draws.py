"""Draws of few labels are part of the error of a difference, and every number beside it is a mean over them."""

import numpy as np
import pytest

from cxrbase.compare.scoring import _protocols
from cxrbase.compare.verdict import differences, values
from cxrbase.evaluation.suite.results import Result

RESAMPLES = 200


def drawn(level, seed, *, accuracy=0.5, protocol="linear-4shot", classes=("a", "b")):
    """A result of one draw of labels: macro AUROC and accuracy of it, on patients that are the same for all."""
    patients = np.array([0.0, *np.random.default_rng(0).normal(0, 0.01, RESAMPLES)])
    macro = {"auroc": level + patients, "accuracy": accuracy + patients}
    entry = {name: {"macro": {"value": float(samples[0])}, "classes": list(classes),
                    "per_class": {"a": {"value": float(samples[0])}, "b": {"value": None}}}
             for name, samples in macro.items()}  # fmt: skip
    row = {"protocol": protocol, "seed": seed, "metrics": entry, "split_checksum": "c", "protocol_text": "t",
           "encoder": {"hash": "h"}}  # fmt: skip
    empty = np.zeros((4, 2))
    return Result(row, empty, empty, empty, np.arange(4), macro)


def compared(gains):
    """Two arms with three seeds, whose difference is that of each draw."""
    found = []
    for arm in "ab":
        for seed in range(3):
            levels = 0.6 + (arm == "a") * np.array(gains) + 0.001 * seed
            protocols = _protocols([drawn(level, draw) for draw, level in enumerate(levels)])
            found.append({"cell": {"arm": arm, "seed": seed}, "tasks": {"made": {"protocols": protocols}}})
    return found


def test_a_difference_that_one_draw_makes_is_not_established():
    (row,) = differences(compared([0.06, 0.0, 0.0]))
    assert row["difference"] == pytest.approx(0.02)
    assert row["low"] < 0 < row["high"]
    assert row["p"] > 0.3
    assert (row["seeds"], row["draws"], row["counted"]) == (3, 3, False)


def test_a_difference_that_all_draws_have_is():
    (row,) = differences(compared([0.021, 0.019, 0.02]))
    assert row["low"] > 0
    assert row["p_holm"] < 0.05


def test_the_interval_of_a_score_holds_the_spread_of_draws():
    wide, narrow = (values(compared(gains))[0] for gains in ([0.1, 0.0, -0.1], [0.0] * 3))
    assert wide["high"] - wide["low"] > 5 * (narrow["high"] - narrow["low"])


def test_the_classes_of_a_score_are_those_that_all_draws_and_seeds_have():
    found = compared([0.0] * 3)
    assert [row["classes"] for row in values(found)] == [["a", "b"]] * 2
    draws = [drawn(0.6, 0), drawn(0.7, 1, classes=("a",))]
    found[0]["tasks"]["made"]["protocols"] = _protocols(draws)
    assert [row["classes"] for row in values(found[:1])] == [["a"]]


def test_metrics_are_means_over_draws_and_not_those_of_the_first():
    draws = [drawn(0.6, 0, accuracy=0.5), drawn(0.7, 1, accuracy=0.8, classes=("a",)), drawn(0.8, 2, accuracy=0.8)]
    found = _protocols([*draws, drawn(0.9, 0, protocol="linear")])
    few, whole = found["linear-4shot"], found["linear"]
    assert few["value"] == pytest.approx(0.7)
    assert few["low"] < 0.7 - 2 * 0.1 / np.sqrt(3) < few["value"] < few["high"]
    accuracy = few["metrics"]["accuracy"]
    assert accuracy["macro"]["value"] == pytest.approx(0.7)
    assert accuracy["per_class"] == {"a": {"value": pytest.approx(0.7), "low": None, "high": None},
                                     "b": {"value": None, "low": None, "high": None}}  # fmt: skip
    assert accuracy["classes"] == ["a"]
    assert (few["draws"], np.shape(few["samples"])) == (3, (3, RESAMPLES + 1))
    assert whole["metrics"] == {name: entry for name, entry in drawn(0.9, 0).row["metrics"].items()}
