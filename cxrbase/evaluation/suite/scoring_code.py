"""Tells scores and features of other code apart from those of this one."""

from cxrbase.code_hash import code_hash

# What turns the files of images and of an encoder into features.
_OF_FEATURES = (
    *("backbones.py", "lean.py", "sizes.py", "views.py", "weights*.py"),
    *(f"data/{name}.py" for name in ("canvas*", "centre", "dataset", "decode*", "reading", "shard*", "views")),
    *("evaluation/features.py", "evaluation/suite/feature_store.py"),
)
# Of evaluation/, what has no part in the rows of frozen encoders; all else has, also files that are yet to come.
_WITHOUT_SCORES = (
    *(f"evaluation/{name}.py" for name in ("chart_styles", "classifier", "finetune*", "lateral*", "score_text")),
    *(f"evaluation/suite/{name}.py" for name in ("compare", "figures", "finished_runs", "lines")),
)


def features_code() -> str:
    """Hash of the code that features depend on."""
    return code_hash(_OF_FEATURES)[:12]


def scores_code() -> str:
    """Hash of the code that a row depends on, beside that of its features."""
    return code_hash(["evaluation/*"], without=_WITHOUT_SCORES)[:12]
