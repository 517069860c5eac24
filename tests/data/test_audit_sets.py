"""What an audit takes a set for: its splits, and what it keeps of images between runs."""

import csv
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from cxrbase.cli import main
from cxrbase.data.audit import audit_sets
from cxrbase.data.audit_images import open_set
from cxrbase.data.images import open_packed, read_manifest
from cxrbase.data.manifest_splits import deal_splits
from cxrbase.data.phantom import make_phantom
from cxrbase.errors import ConfigError, ManifestError
from data.test_canvas import out_of_reach

NAMES = [f"{number}.png" for number in range(24)]


def picture(number):
    """Smooth structure that no other number has."""
    noise = np.random.default_rng(number).standard_normal((9, 9)).astype(np.float32)
    return Image.fromarray(np.uint8(128 + 40 * np.asarray(Image.fromarray(noise).resize((96, 96))).clip(-3, 3)))


@pytest.fixture
def without_splits(tmp_path):
    """A folder without splits, in which a training image is a copy of a test image, and the names of both."""
    root = tmp_path / "set"
    root.mkdir()
    for number, name in enumerate(NAMES):
        picture(number).save(root / name)
    dealt = deal_splits(NAMES)
    test, train = NAMES[dealt.index("test")], NAMES[dealt.index("train")]
    # The copy in training is the larger one, which is kept where splits are not known.
    Image.open(root / test).resize((192, 192), Image.Resampling.BICUBIC).save(root / train)
    return root, test, train


def packed(root, out):
    words = ["pack", "--source", "mine=folder", "--root", str(root), "--out", str(out), "--size", "128"]
    assert main([*words, "--jobs", "1"]) == 0
    return out


@pytest.mark.parametrize("pack", [False, True])
def test_copies_between_splits_that_a_run_deals_are_leaks(without_splits, tmp_path, pack):
    root, test, train = without_splits
    root, prefix = (packed(root, tmp_path / "pack"), "mine/") if pack else (root, "")
    result = audit_sets([root], tmp_path / "out")
    assert [leak["kind"] for leak in result["split_leaks"]] == ["within a set"]
    assert [(x["path"], x["split"]) for group in result["groups"] for x in group if x["split"] == "test"] == [
        (prefix + test, "test")
    ]
    with (tmp_path / "out" / "exclude.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == [prefix + train]
    said = f"Official splits are missing, so 24 images of {root.name} have those that a run deals by patient."
    report = (tmp_path / "out" / "report.md").read_text()
    assert said in report
    assert f"24 images of {root.name} name no patient: each counts as one patient" in report


def test_an_image_that_was_out_of_reach_is_looked_at_again(without_splits, tmp_path):
    root, test, _ = without_splits
    content = (root / test).read_bytes()
    (root / "manifest.csv").write_text("\n".join(["path", *NAMES]))
    state = out_of_reach(root / test, len(content))
    first = audit_sets([root], tmp_path / "out")
    assert ([x["path"] for x in first["unreadable"]], first["split_leaks"]) == ([test], [])
    shutil.rmtree(root / test)
    (root / test).write_bytes(content.ljust(state.st_size, b"\0"))
    os.utime(root / test, ns=(state.st_atime_ns, state.st_mtime_ns))  # as a change of permissions leaves it
    again = audit_sets([root / "manifest.csv"], tmp_path / "out")
    assert again["unreadable"] == []
    assert len(again["split_leaks"]) == 1


@pytest.mark.parametrize("pack", [False, True])
def test_an_audit_has_the_splits_of_a_run(without_splits, tmp_path, pack):
    root = without_splits[0]
    if pack:
        root = packed(root, tmp_path / "pack")
        table = open_packed(str(root), size=64, cache=tmp_path, limit_gb=1)[0]
    else:
        table = read_manifest(root, named=None, targets=None)
    assert open_set(root).splits.tolist() == table.splits().tolist()


def test_official_splits_are_left_as_they_are_and_the_report_says_nothing(tmp_path):
    make_phantom(tmp_path / "phantom", patients=40, image_size=64, seed=2, workers=1)
    result = audit_sets([tmp_path / "phantom"], tmp_path / "out")
    assert (result["split_leaks"], result["patient_leaks"]) == ([], [])
    assert result["sets"][0]["dealt"] == 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert "deals by patient" not in report
    assert "name no patient" not in report


def test_a_split_of_another_name_is_audited_beside_a_source_without_any(tmp_path):
    rows = [f"{name},{'a' if n < 12 else 'b'},p{n},{'dev' if n < 6 else 'train' if n < 12 else ''}"
            for n, name in enumerate(NAMES)]  # fmt: skip
    (tmp_path / "m.csv").write_text("\n".join(["path,source,patient_id,split", *rows]))
    splits = open_set(tmp_path / "m.csv").splits.tolist()
    assert splits[:6] == ["dev"] * 6
    assert splits[12:] == deal_splits(f"p{n}" for n in range(12, 24))


def nih_with_copies(root):
    """The layout of NIH's release: 12 patients, of whom the last 4, in the official test split, copy the first 4."""
    images = [f"{number + 1:08d}_000.png" for number in range(12)]
    (root / "images").mkdir(parents=True)
    for number, name in enumerate(images):
        picture(number % 8).save(root / "images" / name)
    rows = [f"{name},No Finding,0,{number + 1},50,M,PA" for number, name in enumerate(images)]
    head = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position"
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join([head, *rows]))
    (root / "train_val_list.txt").write_text("\n".join(images[:8]))
    (root / "test_list.txt").write_text("\n".join(images[8:]))
    return [f"images/{name}" for name in images[:4]]


def listed(out):
    with (out / "exclude.csv").open() as file:
        return [(row["source"], row["path"].removeprefix("nih/")) for row in csv.DictReader(file)]


def test_a_download_is_audited_with_its_official_splits_and_patients(tmp_path):
    """Of a training image and its copy in the official test split, the list names the former, as that of the pack."""
    copied = nih_with_copies(tmp_path / "download")
    words = ["--source", "nih", "--root", str(tmp_path / "download"), "--out", str(tmp_path / "pack"), "--size", "96"]
    assert main(["pack", *words, "--jobs", "1", "--partial"]) == 0
    for name, place in (("download", f"nih={tmp_path / 'download'}"), ("of_pack", str(tmp_path / "pack"))):
        assert main(["audit", place, "--out", str(tmp_path / name), "--threads", "1"]) == 0
        assert listed(tmp_path / name) == [("nih", path) for path in copied]
    entry = open_set(f"nih={tmp_path / 'download'}")
    assert (entry.name, set(entry.splits[8:])) == ("nih", {"test"})
    assert entry.manifest.column("patient_id")[0] == "nih:00000001"


def test_a_source_that_is_unknown_is_refused_and_a_path_with_an_equals_sign_is_not(tmp_path):
    with pytest.raises(ConfigError, match="no source 'nhi': did you mean nih"):
        open_set(f"nhi={tmp_path}")
    (tmp_path / "a=b").mkdir()
    picture(0).save(tmp_path / "a=b" / "0.png")
    assert len(open_set(tmp_path / "a=b").manifest) == 1
    with pytest.raises(ManifestError, match=r"cannot audit .*c=d"):
        open_set(tmp_path / "c=d")
