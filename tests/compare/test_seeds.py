"""Seeds of two arms are paired by their number, and what rests on fewer than planned says so."""

import pytest

from compare.conftest import scored
from cxrbase.compare.collect import collect
from cxrbase.compare.report import write_report
from cxrbase.compare.verdict import difference_of, differences, ranking, samples, values

LEVELS = {"mae": 0.70, "dino": 0.70, "simclr": 0.75, "untrained": 0.60}
# The first weights and order of a seed move every arm alike.
BY_SEED = {0: 0.60, 1: 0.65, 2: 0.70, 3: 0.90}


def runs(arm, seeds, *, better=0.0):
    return [scored(arm, seed, {"made": BY_SEED[seed] + better}) for seed in seeds]


def test_the_same_method_without_different_seeds_is_no_difference():
    found = [*runs("a", [0, 1, 2]), *runs("b", [1, 2, 3])]
    (row,) = differences(found)
    assert row["difference"] == pytest.approx(0)
    assert row["p"] == 1.0
    assert row["seeds"] == 2


def test_a_pair_is_the_difference_of_the_seeds_that_both_have():
    found = [*runs("a", [0, 3], better=0.01), *runs("b", [0, 1, 2])]
    (row,) = differences(found)
    assert row["difference"] == pytest.approx(0.01)
    assert row["seeds"] == 1
    assert [one["seeds"] for one in values(found)] == [2, 3]


def test_the_order_of_results_says_nothing():
    found = [*runs("a", [0, 1, 2], better=0.01), *runs("b", [0, 1, 2])]
    backwards = sorted(found, key=lambda result: (result["cell"]["arm"], -result["cell"]["seed"]))
    assert differences(backwards) == differences(found)


def test_arms_without_a_common_seed_are_not_compared():
    found = [*runs("a", [0, 1]), *runs("b", [2, 3])]
    assert difference_of(*(samples(found, arm, "made", "linear") for arm in "ab")) is None
    assert differences(found) == []
    assert [row["rank"] for row in ranking(found, protocol="linear")] == [1, 1]


def test_a_task_that_one_seed_lacks_leaves_the_seed_out_and_shifts_no_other():
    levels = {0: (0.60, 0.80), 1: (0.62, None), 2: (0.70, 0.90)}
    found = [scored("a", seed, {"one": one, "two": two}) for seed, (one, two) in levels.items()]
    (row,) = ranking(found, protocol="linear")
    assert row["seeds"] == 2
    assert row["value"] == pytest.approx((0.70 + 0.80) / 2)


@pytest.mark.parametrize(("missing", "said"), [([1, 2], "over patients only"), ([2], "2 of 3 seeds"), ([], "")])
def test_the_caution_is_of_the_seeds_that_are_done(finished, plan, tmp_path, missing, said):
    titles = {cell.arm for cell in plan.cells()}
    places = finished(LEVELS, but=tuple(f"{arm} seed {seed}" for arm in titles for seed in missing))
    content = collect(plan, places, tmp_path, data="data")
    write_report(content, places, tmp_path / "report.html")
    few = [warning for warning in content["warnings"] if "of 3 seeds" in warning]
    assert bool(few) == bool(missing)
    assert said in " ".join(few)
    assert said in content["answer"]
    assert ("hardly known" in content["answer"]) == (missing == [2])
    page = (tmp_path / "report.html").read_text()
    assert (f"({3 - len(missing)} of 3 seeds)" in page) == bool(missing)


def test_an_arm_with_fewer_seeds_than_others_is_named(finished, plan, tmp_path):
    places = finished(LEVELS, but=("dino 32-true seed 1", "dino 32-true seed 2"))
    content = collect(plan, places, tmp_path, data="data")
    (few,) = [warning for warning in content["warnings"] if "of 3 seeds" in warning]
    assert few.startswith("dino 32-true: 1 of 3 seeds is done")
    by_pair = {(row["first"], row["second"]): row["seeds"] for row in content["differences"]}
    assert by_pair["mae 32-true", "dino 32-true"] == 1
    assert by_pair["mae 32-true", "simclr 32-true"] == 3
