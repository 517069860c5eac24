"""Families of tests: what is corrected, and what is said where resamples or seeds are few for their number."""

import pytest

from cxrbase.evaluation.correction import correct, family_warnings


def family(*p_values, resamples=1000):
    rows = [{"p": p, "resamples": resamples} for p in p_values]
    correct(rows)
    return rows


def test_undefined_tests_are_not_counted():
    rows = family(0.01, None, 0.04)
    assert [row.get("p_holm") for row in rows] == [0.02, None, 0.04]
    assert family_warnings({"linear": rows, "none": []}) == []


@pytest.mark.parametrize(("tests", "resamples", "said"), [(25, 1000, False), (26, 1000, True), (26, 2000, False),
                                                          (1, 38, True), (1, 39, False)])  # fmt: skip
def test_a_family_is_warned_of_where_counting_cannot_reach_the_level(tests, resamples, said):
    warnings = family_warnings({"linear": family(*[0.5] * tests, resamples=resamples)})
    assert len(warnings) == said
    for warning in warnings:
        counted = f"counted among {resamples:,} resamples no corrected p can fall below 0.05"
        assert warning.startswith(f"linear: {tests} test{'s' * (tests > 1)}: {counted}")


def test_families_of_which_the_same_is_true_share_a_sentence():
    one, two = family(*[0.5] * 45), family(*[0.4] * 45)
    (warning,) = family_warnings({"linear": one, "knn": two, "small": family(0.5)})
    assert warning.startswith("linear, knn: 45 tests: ")


def test_a_clear_difference_that_the_correction_hides_is_marked_and_counted():
    least = 2 / 1001
    rows = family(least, least / 100, *[0.5] * 43)
    assert "all 1,000 resamples lie on one side of 0" in rows[0]["warning"]
    assert "corrected for 45 tests p is not below 0.05" in rows[0]["warning"]
    assert [row for row in rows if "warning" in row] == rows[:1]
    (warning,) = family_warnings({"linear": rows})
    assert "no corrected p can fall below 0.09" in warning
    assert "1 of these are still not below 0.05: more seeds or fewer tests" in warning


def test_a_clear_difference_in_a_small_family_is_not_marked():
    assert not [row for row in family(*[2 / 1001] * 6) if "warning" in row]


def test_an_uncertain_difference_is_not_marked():
    assert not [row for row in family(*[0.004] * 45) if "warning" in row]


def test_over_several_seeds_nothing_is_counted_and_an_interval_that_excludes_0_is_what_is_clear():
    rows = [{"p": p, "resamples": 20, "counted": False} for p in (0.001, 0.03, *[0.5] * 8)]
    correct(rows)
    assert [row["warning"] for row in rows if "warning" in row] == [
        "the interval excludes 0, but corrected for 10 tests p is not below 0.05"
    ]
    (warning,) = family_warnings({"linear": rows})
    assert warning.startswith("linear: 10 tests: the intervals of 1 exclude 0 and their corrected p is not below 0.05")
