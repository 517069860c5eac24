"""Rows and features are those of the code that is there: other code makes its own, the same code uses them again."""

from fnmatch import fnmatch

import pytest

from cxrbase.evaluation.suite import scoring_code
from cxrbase.evaluation.suite.score_task import Settings, score_task
from cxrbase.evaluation.suite.scoring_code import scores_code
from evaluation.worlds import world
from reaching import reached

# Of what a feature is read by: which images there are, their names, and files; not their pixels.
WITHOUT_PIXELS = ["__init__.py", "code_hash.py", "config_files.py", "cores.py", "errors.py", "states.py",
                  "whole_files.py", "data/manifest*", "data/order.py", "data/parquet*", "data/quarantine.py",
                  "data/stand_ins.py", "data/storage.py", "evaluation/suite/scoring_code.py"]  # fmt: skip


def changed(path):
    path.write_text(path.read_text() + "# other\n")


def scored(done):
    features, splits = world()
    about = {"name": "t", "title": "T", "kind": "multilabel", "warnings": []}
    (result,) = score_task(
        features, splits, encoder={"name": "e", "hash": "h"}, task=about,
        settings=Settings(protocols=["knn"], resamples=10), done=done,
    )  # fmt: skip
    return result


@pytest.mark.parametrize("file", ["evaluation/knn.py", "data/decode_image.py"])
def test_a_row_of_other_code_is_not_taken_and_one_of_the_same_code_is(package, file):
    first = scored({})
    done = {first.row["key"]: first}
    changed(package / "evaluation" / "chart_styles.py")
    changed(package / "release" / "card.py")
    assert scored(done) is first
    changed(package / file)
    assert scored(done) is not first


def test_all_that_a_row_is_made_by_tells_codes_apart(package):
    own = [file for file in reached("cxrbase.evaluation.suite.score_encoder") if file.startswith("evaluation/")]
    assert "evaluation/measure.py" in own
    for file in own:
        before = scores_code()
        changed(package / file)
        assert scores_code() != before, file


def test_all_that_a_feature_is_made_by_tells_codes_apart():
    used = reached("cxrbase.evaluation.suite.feature_store") | reached("cxrbase.weights")
    used = {file for file in used if not any(fnmatch(file, pattern) for pattern in WITHOUT_PIXELS)}
    assert {"views.py", "weights.py", "evaluation/features.py"} <= used
    assert [file for file in used if not any(fnmatch(file, one) for one in scoring_code._OF_FEATURES)] == []
