"""Result rows on features of known worth: what is caught, what is repaired, what is compared."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxrbase.errors import ConfigError, EncoderError
from cxrbase.evaluation.cohort import Cohort, Splits
from cxrbase.evaluation.protocols import Protocol, standard_protocols
from cxrbase.evaluation.suite.compare import compare_results, comparison_warnings
from cxrbase.evaluation.suite.figures import curves, write_figures
from cxrbase.evaluation.suite.lines import difference_lines
from cxrbase.evaluation.suite.results import read_results, write_result
from cxrbase.evaluation.suite.score_task import Settings, score_task
from cxrbase.evaluation.suite.seen import Seen, leave_out
from evaluation.worlds import CLASSES, world

UNSEEN = "whether the encoder was pretrained on test images was not looked at (seen=off)"
QUICK = Settings(protocols=["linear"], resamples=200)


def run(*, settings=QUICK, name="e", seen=None, done=None, task="t", kind="multilabel", changed=None, **options):
    features, splits = world(**options)
    features, splits = changed(features, splits) if changed else (features, splits)
    about = {"name": task, "title": "T", "kind": kind, "warnings": ["told"]}
    encoder = {"name": name, "hash": f"{name}{sorted(options.items())}"}
    return list(score_task(features, splits, encoder=encoder, task=about, settings=settings, seen=seen, done=done))


def test_a_row_holds_everything_and_goes_to_disk_and_back(tmp_path):
    (result,) = run()
    row = result.row
    assert {"encoder", "task", "protocol", "protocol_text", "seed", "version", "git_commit", "split_checksum", "counts",
            "metrics", "subgroups", "shortcut", "seen_before", "undefined", "uncalibrated", "warnings", "test_opened",
            "regularisation", "train_images", "key"} == set(row)  # fmt: skip
    assert (row["test_opened"], row["split_checksum"], row["warnings"]) == (1, "c0ffee", ["told", UNSEEN])
    area = row["metrics"]["auroc"]
    want = [roc_auc_score(result.labels[:, k], result.logits[:, k]) for k in range(2)]
    assert [area["per_class"][name]["value"] for name in CLASSES] == pytest.approx(want)
    assert area["macro"]["value"] == pytest.approx(np.mean(want))
    assert area["macro"]["low"] < area["macro"]["value"] < area["macro"]["high"]
    path = write_result(result, tmp_path)
    (again,) = read_results(tmp_path)
    assert again.row == json.loads(path.read_text()) == row
    np.testing.assert_array_equal(again.logits, result.logits)
    np.testing.assert_array_equal(again.macro["ece"], result.macro["ece"])
    assert "test-" not in path.read_text()
    assert np.issubdtype(again.patients.dtype, np.integer)
    path.with_suffix(".npz").write_bytes(b"no")
    with pytest.raises(ConfigError, match="cannot be read as a result"):
        read_results(tmp_path)


def test_protocols_have_names_and_seeds_are_for_what_is_drawn():
    names = [p.name for p in standard_protocols()]
    assert names == ["knn", "linear", "linear-1%", "linear-10%", *(f"linear-{k}shot" for k in (1, 2, 4, 8, 16, 32))]
    assert [Protocol.parse(name) for name in names] == standard_protocols()
    for text in ("lineer", "linear-0shot", "linear-0%", "linear-101%", "knn-", ""):
        with pytest.raises(ConfigError, match="a protocol is"):
            Protocol.parse(text)
    found = run(settings=Settings(protocols=["knn", "linear-4shot", "linear-50%"], seeds=[3, 4], resamples=20))
    assert [(r.row["protocol"], r.row["seed"]) for r in found] == [
        ("knn", 3), ("linear-4shot", 3), ("linear-4shot", 4), ("linear-50%", 3), ("linear-50%", 4)]  # fmt: skip
    assert [r.row["train_images"] for r in found[3:]] == [120, 120]


def test_more_labels_give_a_better_score_on_average():
    settings = Settings(protocols=["linear-1shot", "linear-8shot", "linear"], seeds=list(range(6)), resamples=5)
    found = {}
    for result in run(settings=settings):
        found.setdefault(result.row["protocol"], []).append(result.row["metrics"]["auroc"]["macro"]["value"])
    one, eight, every = (np.mean(values) for values in found.values())
    assert one < eight < every


def test_a_planted_shortcut_is_caught():
    (linked,) = run(worth=0.0, site_worth=6.0, linked=True)
    assert linked.row["metrics"]["auroc"]["per_class"]["effusion"]["value"] > 0.95  # and it looks splendid
    (told,) = [w for w in linked.row["warnings"] if "effusion" in w]
    assert "the site of an image tells effusion" in told
    shortcut = linked.row["shortcut"]
    assert shortcut["origin_from_features"]["site"]["auroc"]["low"] > 0.95
    flags = {entry["label"]: entry["flagged"] for entry in shortcut["label_from_origin"]["site"]}
    assert flags == {"effusion": True, "nodule": False}
    (fair,) = run()
    assert fair.row["warnings"] == ["told", UNSEEN]
    assert fair.row["shortcut"]["origin_from_features"]["site"]["auroc"]["low"] < 0.5


def test_a_group_that_the_encoder_fails_is_seen_with_its_gap():
    (result,) = run(weak="F")
    sex = result.row["subgroups"]["sex"]
    assert (sex["gap"]["best"], sex["gap"]["worst"]) == ("M", "F")
    assert sex["gap"]["low"] > 0.2
    assert sex["groups"]["F"]["images"] + sex["groups"]["M"]["images"] == 240
    assert "source" not in result.row["subgroups"]
    (even,) = run()
    assert even.row["subgroups"]["sex"]["gap"]["value"] < 0.1


def test_a_small_group_is_named_and_not_scored():
    def rare(features, splits):
        site = splits.test.groups["site"].astype(object)
        site[:4] = "market"
        test = Cohort(splits.test.labels, splits.test.patients, {"site": site})
        return features, Splits(splits.classes, splits.train, splits.val, test, "")

    (result,) = run(changed=rare)
    assert result.row["subgroups"]["site"]["too_few"] == ["market"]
    assert set(result.row["subgroups"]["site"]["groups"]) == {"hill", "river"}


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_broken_label_column_is_named_and_not_averaged(value, tmp_path):
    def broken(features, splits):
        labels = splits.test.labels.copy()
        labels[:, 1] = value
        test = Cohort(labels, splits.test.patients)
        return features, Splits(splits.classes, splits.train, splits.val, test, "")

    results = run(changed=broken)
    row = results[0].row
    assert list(row["undefined"]) == ["nodule"]
    assert any("nodule is undefined" in warning for warning in row["warnings"])
    for name in ("auroc", "auprc", "accuracy", "f1", "brier", "ece"):
        assert row["metrics"][name]["per_class"]["nodule"] == {"value": None, "low": None, "high": None}
        assert row["metrics"][name]["macro"]["value"] == row["metrics"][name]["per_class"]["effusion"]["value"]
    write_result(results[0], tmp_path)  # None and not NaN, which is no JSON
    assert len(write_figures(results, tmp_path)) == 4


@pytest.mark.parametrize(("value", "lacks"), [(0.0, "only negatives"), (1.0, "only positives"), (np.nan, "no known")])
@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_a_class_that_validation_cannot_judge_keeps_what_needs_no_validation(value, lacks, kind):
    def broken(features, splits):
        labels = splits.val.labels.copy()
        labels[:, 1] = value
        val = Cohort(labels, splits.val.patients)
        return features, Splits(splits.classes, splits.train, val, splits.test, "")

    (result,) = run(changed=broken, kind=kind)
    row, whole = result.row, run()[0].row
    assert row["undefined"] == {}
    assert row["uncalibrated"].keys() == {"nodule"}
    assert any(w.startswith(f"nodule is not thresholded or calibrated: {lacks}") for w in row["warnings"])
    for name, entry in row["metrics"].items():
        if name in ("threshold", "temperature"):
            assert entry["nodule"] is None
        elif name in ("auroc", "auprc", "sensitivity_at_specificity"):
            assert entry["classes"] == list(CLASSES)
            assert entry["per_class"]["nodule"]["value"] == pytest.approx(
                whole["metrics"][name]["per_class"]["nodule"]["value"], abs=0.2
            )
        elif name != "top1_accuracy":
            assert entry["classes"] == ["effusion"]
            assert entry["per_class"]["nodule"] == {"value": None, "low": None, "high": None}
            assert entry["macro"] == entry["per_class"]["effusion"]
    shown = {name: titles(figure) for name, figure in curves([result]).items()}
    assert shown["roc"] == shown["precision_recall"] == list(CLASSES)
    assert shown["reliability"] == shown["confusion_e"] == ["effusion"]


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_visible()]


def test_figures_show_a_class_that_one_of_two_encoders_can_be_drawn_for():
    (first,), (second,) = run(), run(name="f")
    entry = second.row["metrics"]["ece"]
    entry["per_class"]["nodule"], entry["classes"] = {"value": None, "low": None, "high": None}, ["effusion"]
    axes = curves([first, second])["reliability"].axes
    labels = [[text.get_text() for text in one.get_legend().get_texts()] for one in axes]
    assert [len(one) for one in labels] == [2, 2]
    assert labels[1][1] == "f undefined"


def looks(axes):
    """Colour and mark by label of the lines that have both, from the legend."""
    handles, labels = axes.get_legend_handles_labels()
    return {label: (line.get_color(), line.get_marker()) for line, label in zip(handles, labels, strict=True)}


def test_nine_encoders_look_different_and_each_the_same_in_all_figures(monkeypatch, tmp_path):
    drawn = {}
    monkeypatch.setattr("cxrbase.evaluation.suite.figures._save", lambda pictures, *_: drawn.update(pictures))
    protocols = ["knn", "linear", "linear-2shot", "linear-8shot", "linear-50%"]
    made = run(settings=Settings(protocols=protocols, seeds=[0], resamples=5))
    names = [f"encoder {number}" for number in range(9)]
    results = [
        replace(one, row=one.row | {"encoder": {"name": name, "hash": ""}})
        for name in names
        for one in made
        # The first one has only the neighbours on all labels, and no part of the patients.
        if name != names[0] or one.row["protocol"] not in ("linear", "linear-50%")
    ]
    write_figures(results, tmp_path)
    wanted = looks(drawn["label_efficiency"].axes[0])
    assert list(wanted) == names
    assert len(set(wanted.values())) == 9
    assert looks(drawn["label_efficiency"].axes[1]) == {name: wanted[name] for name in names[1:]}
    for picture in ("roc", "precision_recall", "reliability"):
        found = looks(drawn[picture].axes[0])
        assert [found[label] for label in sorted(found)] == list(wanted.values())


def test_seen_images_are_counted_and_can_be_left_out():
    flags = np.zeros(240, bool)
    flags[:10] = True
    seen = Seen(flags, np.roll(flags, 10), 500, "")
    (counted,) = run(seen=seen)
    assert counted.row["seen_before"] == {"exact": 10, "near": 10, "training_images": 500, "note": "", "left_out": 0}
    assert "pretrained on 20 of the test images" in counted.row["warnings"][1]
    rows = np.arange(300, 540)
    other = Seen(np.roll(flags, 15), flags & False, 500, "")
    pair = leave_out([(seen, rows), (other, rows)])
    results = [run(seen=one, name=name, settings=QUICK)[0] for name, one in zip("ab", pair, strict=True)]
    for result, own in zip(results, (20, 10), strict=True):
        assert result.row["seen_before"]["left_out"] == 25
        assert result.row["seen_before"]["exact"] == 10
        assert result.row["counts"]["test"]["images"] == len(result.labels) == 215
        assert f"pretrained on {own} of the test images, which are left out" in result.row["warnings"][1]
        assert f"{25 - own} test images that another encoder was pretrained on" in result.row["warnings"][2]
    assert len(compare_results(results)) == 1
    with pytest.raises(ConfigError, match="all 240 test images were seen"):
        leave_out([(seen, rows), (Seen(~flags, flags & False, 500, ""), rows)])
    (unknown,) = run(seen=Seen(flags & False, flags & False, None, "", "why"))
    assert unknown.row["seen_before"]["exact"] is None
    assert "not known" in unknown.row["warnings"][1]


def test_finished_rows_are_taken_and_others_are_not():
    (first,) = run()
    assert run(done={first.row["key"]: first})[0] is first
    assert run(done={first.row["key"]: first}, worth=1.0)[0] is not first
    assert run(done={first.row["key"]: first}, settings=Settings(protocols=["linear"], resamples=201))[0] is not first


def test_the_better_encoder_is_told_from_noise_and_twins_are_not():
    settings = Settings(protocols=["linear", "linear-16shot"], seeds=[0, 1, 2], resamples=300)
    results = [*run(settings=settings, name="good"), *run(settings=settings, name="twin"),
               *run(settings=settings, name="noise", worth=0.0)]  # fmt: skip
    pairs = {(tuple(p["encoders"]), p["protocol"]): p for p in compare_results(results)}
    assert (same := pairs[("good", "twin"), "linear"])["value"] == 0.0
    assert same["p_holm"] == 1.0
    clear = pairs[("good", "noise"), "linear"]
    assert clear["low"] > 0
    assert clear["p_holm"] == pytest.approx(3 * clear["p_value"])
    assert clear["resamples"] == 300
    assert clear["p_value"] < 2 / 301
    assert comparison_warnings(list(pairs.values())) == []
    few = pairs[("good", "noise"), "linear-16shot"]
    assert few["seeds"] == 3
    assert few["low"] > 0
    other = compare_results(results, metric="brier")
    assert {p["metric"] for p in other} == {"brier"}
    with pytest.raises(ConfigError, match="cannot be compared"):
        compare_results([*run(), *run(name="f", patients=60)])
    other = run(name="f", settings=Settings(protocols=["linear"], resamples=200, threshold="f1"))
    with pytest.raises(ConfigError, match=r"their ways of scoring \(protocol_text\) differ"):
        compare_results([*run(), *other])
    with pytest.raises(ConfigError, match="no seed"):
        compare_results([*run(), *run(name="f", settings=Settings(protocols=["linear"], seeds=[1], resamples=200))])


def without_nodule_in_training(features, splits):
    labels = splits.train.labels.copy()
    labels[:, 1] = 0
    train = Cohort(labels, splits.train.patients, splits.train.groups)
    return features, Splits(splits.classes, train, splits.val, splits.test, splits.checksum)


def test_means_over_other_classes_are_not_compared():
    (whole,), (part,) = run(), run(name="f", changed=without_nodule_in_training)
    assert part.row["metrics"]["auroc"]["classes"] == ["effusion"]
    with pytest.raises(ConfigError, match="their classes that auroc is defined for differ"):
        compare_results([whole, part])
    (twin,) = run(name="g", changed=without_nodule_in_training)
    assert len(compare_results([part, twin])) == 1


def test_points_of_a_curve_are_over_the_same_classes_and_others_are_named(monkeypatch, tmp_path):
    drawn = {}
    monkeypatch.setattr("cxrbase.evaluation.suite.figures._save", lambda pictures, *_: drawn.update(pictures))
    settings = Settings(protocols=["linear", "linear-2shot", "linear-4shot", "linear-8shot"], seeds=[0], resamples=5)
    results = run(settings=settings)
    write_figures(results, tmp_path)
    whole = drawn["label_efficiency"]
    assert whole.get_supxlabel() == ""
    assert whole.axes[0].lines[0].get_xdata().tolist() == [2, 4, 8]
    few = run(settings=Settings(protocols=["linear-2shot"], seeds=[0], resamples=5), changed=without_nodule_in_training)
    write_figures([results[0], *few, *results[2:]], tmp_path)
    figure = drawn["label_efficiency"]
    assert figure.axes[0].lines[0].get_xdata().tolist() == [4, 8]
    assert figure.get_supxlabel() == (
        "Left out, as the mean is over other classes there: linear-2shot (without nodule)."
    )


def test_few_resamples_for_many_pairs_are_told():
    settings = Settings(protocols=["linear"], resamples=50)
    rows = compare_results([*run(settings=settings, name="good"), *run(settings=settings, name="noise", worth=0.0)])
    assert comparison_warnings(rows) == []
    (said,) = comparison_warnings(compare_results([one for name in "abc" for one in run(settings=settings, name=name)]))
    assert said.startswith("linear: 3 tests: counted among 50 resamples no corrected p can fall below 0.12")


def test_a_difference_that_few_resamples_hold_is_shown_without_interval_and_p():
    def rare(features, splits):
        # Each finding in one patient: two resamples in five draw both.
        labels = np.stack([splits.test.patients == name for name in np.unique(splits.test.patients)[:2]], axis=1)
        test = Cohort(labels.astype(float), splits.test.patients, splits.test.groups)
        return features, Splits(splits.classes, splits.train, splits.val, test, "")

    rows = compare_results([*run(changed=rare), *run(changed=rare, name="f", worth=0.5)])
    assert 0 < rows[0]["resamples"] < 100
    assert rows[0]["low"] is rows[0]["p_value"] is rows[0]["p_holm"] is None
    assert comparison_warnings(rows) == []
    _, line = difference_lines(rows, ["linear"])
    assert line.startswith("t, linear: e - f = ")
    assert line.endswith(" (no interval: too few resamples hold every class)")


def test_one_class_is_compared_by_delong_too():
    def one_class(features, splits):
        parts = (Cohort(p.labels[:, :1], p.patients, p.groups) for _, p in splits.parts())
        return features, Splits(("effusion",), *parts, "")

    results = [*run(changed=one_class), *run(changed=one_class, name="f", worth=0.5)]
    (pair,) = compare_results(results)
    assert pair["delong"]["p_value"] < 0.01
    assert pair["delong"]["images_of_one_patient"]
    assert (pair["p_value"] < 0.05) == (pair["delong"]["p_value"] < 0.05)


def test_top1_accuracy_of_exclusive_classes(tmp_path):
    def exclusive(features, splits):
        parts = []
        for _, part in splits.parts():
            labels = part.labels.copy()
            labels[:, 1] = 1 - labels[:, 0]
            parts.append(Cohort(labels, part.patients, part.groups))
        return features, Splits(splits.classes, *parts, "")

    results = run(changed=exclusive, kind="multiclass", worth=6.0)
    assert results[0].row["metrics"]["top1_accuracy"]["macro"]["value"] > 0.9
    single = results[0].labels.sum(1) == 1
    right = results[0].logits[single].argmax(1) == results[0].labels[single].argmax(1)
    assert results[0].macro["top1_accuracy"][0] == pytest.approx(right.mean())
    assert len(results[0].macro["top1_accuracy"]) == len(results[0].macro["auroc"]) == 201
    assert "top1_accuracy" not in run()[0].row["metrics"]
    assert "top1_accuracy" not in run()[0].macro
    assert len(write_figures(results, tmp_path)) == 4


def test_features_of_another_encoder_or_of_none_are_refused():
    features, splits = world()
    wrong = {**features, "test": features["test"][:, :5]}
    options = {"encoder": {"name": "e", "hash": "h"}, "settings": QUICK,
               "task": {"name": "t", "title": "T", "kind": "binary", "warnings": []}}  # fmt: skip
    with pytest.raises(EncoderError, match="of other images or another encoder"):
        list(score_task(wrong, splits, **options))
    features["test"][3, 3] = np.nan
    with pytest.raises(EncoderError, match="must be finite"):
        list(score_task(features, splits, **options))


@pytest.mark.parametrize(
    "wrong",
    [{"resamples": 0}, {"seeds": []}, {"seeds": [-1]}, {"protocols": ["x"]}, {"seen": "off", "leave_out_seen": True}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        Settings(**wrong)


@pytest.mark.parametrize("threshold", ["youden", "f1", "accuracy"])
def test_the_threshold_is_chosen_as_asked(threshold):
    (result,) = run(settings=Settings(protocols=["linear"], resamples=5, threshold=threshold))
    assert threshold in result.row["protocol_text"]
    assert 0 < result.row["metrics"]["threshold"]["effusion"] < 1


def test_a_class_with_few_positive_patients_is_told_and_resamples_without_it_are_counted():
    def rare(features, splits):
        labels = splits.test.labels.copy()
        first = np.unique(splits.test.patients)[:3]
        labels[:, 1] = np.isin(splits.test.patients, first)
        test = Cohort(labels, splits.test.patients, splits.test.groups)
        return features, Splits(splits.classes, splits.train, splits.val, test, "")

    (result,) = run(changed=rare)
    left_out = result.row["metrics"]["auroc"]["resamples_left_out"]
    assert 0 < left_out == np.isnan(result.macro["auroc"][1:]).sum() < 30
    (said,) = [warning for warning in result.row["warnings"] if "positive patients" in warning]
    assert said.startswith(
        f"{CLASSES[1]} has only 3 positive patients in test: its interval says little, and {left_out} "
    )
    assert run()[0].row["metrics"]["auroc"]["resamples_left_out"] == 0
