"""The sentence of a report is true: whose lead it states, between whom it says that there is no difference."""

import pytest

from compare.conftest import scored
from cxrbase.compare.headline import answer
from cxrbase.compare.verdict import differences, ranking


def results(levels, *, noise=None, seeds=(0, 1, 2)):
    """Arms of a level each, which all seeds have; `noise` is the spread that an arm shares with no other."""
    return [scored(arm, seed, {"made": level}, noise=(noise or {}).get(arm, 0.002)) for arm, level in levels.items()
            for seed in seeds]  # fmt: skip


def said(found, *, planned=3):
    return answer(found, differences(found), protocol="linear", planned=planned)


def ranks(found):
    return {row["arm"]: row["rank"] for row in ranking(found, protocol="linear")}


def pair(found, first, second):
    (row,) = [row for row in differences(found) if {row["first"], row["second"]} == {first, second}]
    return row


def test_the_lead_is_over_the_next_trained_arm_and_not_over_the_control_between():
    found = results({"simclr": 0.60, "dino": 0.52, "untrained": 0.54})
    sentence = said(found)
    gap = pair(found, "simclr", "dino")
    assert gap["difference"] == pytest.approx(0.08)
    assert sentence.startswith("simclr is best: macro AUROC 0.600 by linear, ")
    assert f"{gap['difference']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}] against dino" in sentence
    assert f"corrected p {gap['p_holm']:.3f}" in sentence or gap["p_holm"] < 0.001
    assert "the untrained network scores 0.540." in sentence


def test_a_control_that_is_what_the_others_started_from_is_not_called_untrained():
    found = [one | {"start": "weights.pth"} for one in results({"simclr": 0.60, "untrained": 0.54})]
    assert "the network before pretraining scores 0.540" in said(found)


def test_ends_that_are_told_apart_are_not_chained_by_their_neighbours():
    found = results({"a": 0.600, "b": 0.585, "c": 0.570}, noise=dict.fromkeys("abc", 0.006))
    # Each is close to the next, and the ends are apart.
    assert pair(found, "a", "b")["low"] <= 0
    assert pair(found, "b", "c")["low"] <= 0
    assert pair(found, "a", "c")["low"] > 0
    assert ranks(found) == {"a": 1, "b": 1, "c": 3}
    assert said(found).startswith("No difference is established between a and b: a scores macro AUROC 0.600 by linear")


def test_the_difference_in_the_table_is_the_one_that_gave_the_rank():
    found = results({"a": 0.600, "b": 0.585, "c": 0.570}, noise=dict.fromkeys("abc", 0.006))
    behind = {row["arm"]: row["behind"] for row in ranking(found, protocol="linear")}
    assert behind["a"] is None
    assert [behind[arm]["arm"] for arm in "bc"] == ["a", "a"]
    assert behind["c"]["difference"] == pytest.approx(0.03)


def test_one_that_is_not_told_from_the_best_is_named_though_one_before_it_is():
    found = results({"a": 0.60, "b": 0.59, "c": 0.58}, noise={"a": 0.0005, "b": 0.0005, "c": 0.02})
    assert pair(found, "a", "b")["low"] > 0
    assert pair(found, "a", "c")["low"] <= 0
    assert said(found).startswith("No difference is established between a and c: ")


def test_several_that_are_not_told_from_the_best_are_not_said_to_be_equal_to_each_other():
    found = results({"a": 0.600, "b": 0.598, "c": 0.590}, noise={"a": 0.02, "b": 0.0, "c": 0.0})
    assert pair(found, "b", "c")["low"] > 0
    assert said(found).startswith("No difference is established between a and b or c: ")


@pytest.mark.parametrize("ranked", [1, 30])
def test_what_no_corrected_p_establishes_is_not_called_best(ranked):
    names = [f"task {n}" for n in range(30)]
    found = [scored(arm, seed, dict.fromkeys(names, level), noise=0.003) for arm, level in (("a", 0.512), ("b", 0.50))
             for seed in range(3)]  # fmt: skip
    for result in found:
        for name in names[ranked:]:
            result["tasks"][name]["confounded"] = True  # out of the ranking, and in the family of tests
    rows = differences(found)
    assert all(row["low"] > 0 for row in rows)
    assert all(row["p_holm"] >= 0.05 for row in rows)
    sentence = said(found)
    assert sentence.startswith("a scores highest: ")
    assert ("by task, none below 0.05" if ranked > 1 else ", which is not below 0.05") in sentence


def test_the_corrected_p_of_the_sentence_is_of_ranked_tasks_alone():
    levels = {"a": {"made": 0.510, "told": 0.9}, "b": {"made": 0.500, "told": 0.5}}
    found = [scored(arm, seed, levels[arm], noise=0.003) for arm in levels for seed in range(3)]
    for result in found:
        result["tasks"]["told"]["confounded"] = True
    (row,) = [row for row in differences(found) if row["task"] == "made"]
    assert f"corrected p {row['p_holm']:.3f};" in said(found).replace(". Its price", ";")


def two_ways(ahead, behind, *, noise=0.004):
    """Two arms, the first better on four tasks and the second on a fifth, whose difference no patient blurs."""
    found = []
    for arm in "ab":
        for seed in range(3):
            result = scored(arm, seed, {f"t{n}": 0.6 + (arm == "a") * ahead for n in range(4)}, noise=noise)
            result["tasks"] |= scored(arm, seed, {"t4": 0.6 - (arm == "a") * behind})["tasks"]
            found.append(result)
    return found


def test_a_task_where_the_other_is_better_does_not_make_an_arm_the_best():
    found = two_ways(0.0128, 0.002)
    rows = {row["task"]: row for row in differences(found)}
    assert all(rows[f"t{n}"]["p_holm"] > 0.05 for n in range(4))
    assert rows["t4"]["p_holm"] < 0.05
    sentence = said(found)
    assert sentence.startswith("a scores highest: ")
    assert "by task, none below 0.05, though b is better on t4 (corrected p below 0.001)" in sentence


def test_the_best_says_on_which_task_another_is_better():
    sentence = said(two_ways(0.05, 0.01))
    assert sentence.startswith("a is best: ")
    assert ", though b is better on t4 (corrected p below 0.001)" in sentence
    assert "though" not in said(two_ways(0.05, 0.0))


@pytest.mark.parametrize(
    ("control", "ending"),
    [(0.50, "scores 0.500."), (0.599, "scores 0.599, from which it is not told apart."),
     (0.70, "scores 0.700, which is better.")],
)  # fmt: skip
def test_the_control_is_set_beside_the_best(control, ending):
    assert ending in said(results({"a": 0.60, "untrained": control}))


def test_a_single_arm_is_not_called_best():
    assert said(results({"a": 0.60})).startswith("a scores macro AUROC 0.600 by linear. Its price")


def test_what_is_better_on_common_seeds_goes_before_what_had_the_easier_seeds():
    levels = {0: 0.70, 1: 0.60, 2: 0.60}
    found = [scored("a", 0, {"made": 0.70})] + [scored("b", seed, {"made": 0.01 + x}) for seed, x in levels.items()]
    assert list(ranks(found)) == ["b", "a"]
    assert ranks(found) == {"b": 1, "a": 2}
    assert said(found).endswith("This rests on 1 of 3 seeds; with 1 seed the interval is over patients only, and "
                                "nothing is known of the spread between trainings.")  # fmt: skip
