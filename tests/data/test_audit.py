"""Copies, leaks, confounded labels and odd images."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageOps

from cxrbase.cli import main
from cxrbase.data import audit_duplicates
from cxrbase.data.audit import audit_sets
from cxrbase.data.audit_align import small_image
from cxrbase.data.audit_checks import Rows, confounding, exclusions, groups_of, odd_images, split_leaks
from cxrbase.data.audit_duplicates import candidates
from cxrbase.data.audit_images import AuditSet, measure, open_set
from cxrbase.data.audit_unlike import unlike
from cxrbase.data.audit_verify import near_pairs
from cxrbase.data.audit_views import check_views
from cxrbase.data.decode import decode
from cxrbase.data.fingerprint import DIGITS, mirrored, perceptual_hash
from cxrbase.data.manifest import Manifest
from cxrbase.data.phantom import make_phantom
from cxrbase.errors import ManifestError
from packs import make_pack


def texture(seed, size=160):
    """Smooth structure of several scales, another for each seed."""
    generator = np.random.default_rng(seed)
    total = np.zeros((size, size))
    for cells, weight in ((5, 1.0), (12, 0.6), (40, 0.35)):
        noise = Image.fromarray(generator.standard_normal((cells, cells)).astype(np.float32))
        total += weight * np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC))
    return np.uint8(np.clip(128 + 45 * total, 0, 255))


def altered(image, generator):
    """Cropped, windowed, scaled, flipped, compressed; each by chance."""
    height, width = image.shape
    top, bottom, left, right = generator.uniform(0, 0.08, 4) * (generator.random() < 0.75)
    image = image[int(top * height) : height - int(bottom * height), int(left * width) : width - int(right * width)]
    low, high, gamma = generator.uniform(0, 0.08), generator.uniform(0.92, 1), generator.uniform(0.6, 1.6)
    picture = Image.fromarray(np.uint8(255 * ((image / 255 - low) / (high - low)).clip(0, 1) ** gamma))
    scale = generator.uniform(0.6, 1.4)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    data = io.BytesIO()
    picture = ImageOps.mirror(picture) if generator.random() < 0.2 else picture
    picture.save(data, "JPEG", quality=int(generator.integers(30, 96)))
    return data.getvalue()


@pytest.fixture
def leaky(tmp_path):
    """Two sets: copies inside one, a copy of a test image in the other, odd and broken files."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        Image.fromarray(texture(number)).save(images / f"{number}.png")
    Image.fromarray(texture(0)).save(images / "same.png")
    (images / "near.jpg").write_bytes(altered(texture(1), np.random.default_rng(3)))
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(images / "blank.png")
    Image.fromarray(texture(50)[:40]).save(images / "long.png")
    (images / "broken.png").write_bytes(b"\x89PNG nothing more")
    one = [f"images/{n}.png" for n in range(12)] + ["images/same.png", "images/blank.png", "images/long.png"]
    splits = ["test" if n < 2 else "train" for n in range(12)] + ["train"] * 3
    labels = [n % 2 for n in range(15)]
    table = {"path": one, "split": splits, "patient_id": [f"secret{n}" for n in range(15)], "label_a": labels}
    (tmp_path / "one.csv").write_text(
        "\n".join([",".join(table), *(",".join(map(str, row)) for row in zip(*table.values(), strict=True))])
    )
    (tmp_path / "two.csv").write_text(
        "path,split,patient_id\nimages/near.jpg,,secret5\nimages/broken.png,val,secret3\n"
    )
    return tmp_path


def test_audit_finds_what_was_planted(leaky):
    result = audit_sets([leaky / "one.csv", leaky / "two.csv"], leaky / "out")
    groups = [sorted(x["path"] for x in group) for group in result["groups"]]
    assert sorted(groups) == [["images/0.png", "images/same.png"], ["images/1.png", "images/near.jpg"]]
    assert sorted(leak["kind"] for leak in result["split_leaks"]) == ["across sets", "within a set"]
    assert [leak["kind"] for leak in result["patient_leaks"]] == ["across sets"]
    assert [x["path"] for x in result["odd"]["blank"]] == ["images/blank.png"]
    assert [x["path"] for x in result["odd"]["long"]] == ["images/long.png"]
    assert [x["path"] for x in result["unreadable"]] == ["images/broken.png"]
    with (leaky / "out" / "exclude.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["source"], row["path"]) for row in rows] == [("one", "images/same.png"), ("two", "images/near.jpg")]
    assert "copy of a test image: one: images/0.png" in rows[0]["reason"]


def test_reports_name_no_patients(leaky):
    audit_sets([leaky / "one.csv", leaky / "two.csv"], leaky / "out")
    for name in ("report.md", "report.html", "audit.json", "exclude.csv"):
        assert "secret" not in (leaky / "out" / name).read_text()
    assert "data:image/png;base64," in (leaky / "out" / "report.html").read_text()


def test_names_cannot_become_markup(tmp_path):
    folder = tmp_path / "<b>set"
    folder.mkdir()
    for name in ("<script>alert(1)&|.png", "b.png"):
        Image.fromarray(texture(1)).save(folder / name)
    audit_sets([folder], tmp_path / "out")
    for name in ("report.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "<script" not in text
        assert "<b>" not in text
        assert "&lt;script&gt;" in text


def test_second_run_reads_nothing_again(leaky, monkeypatch):
    first = audit_sets([leaky / "one.csv"], leaky / "out")
    monkeypatch.setattr("cxrbase.data.audit_images.perceptual_hash", None)
    assert audit_sets([leaky / "one.csv"], leaky / "out") == json.loads((leaky / "out" / "audit.json").read_text())
    assert first == json.loads((leaky / "out" / "audit.json").read_text())


def test_copies_among_packed_images_are_found_and_shown(leaky, tmp_path):
    out = tmp_path / "pack"
    words = ["pack", "--source", "mine=folder", "--root", str(leaky / "images"), "--out", str(out), "--size", "128"]
    assert main([*words, "--max_bad", "1"]) == 0
    result = audit_sets([out], tmp_path / "out")
    groups = [sorted(Path(x["path"]).stem for x in group) for group in result["groups"]]
    assert sorted(groups) == [["0", "same"], ["1", "near"]]
    assert result["unverified_candidates"] == 0
    # What was measured when they were packed tells odd ones too.
    odd = {what: [Path(x["path"]).name for x in found] for what, found in result["odd"].items()}
    assert (odd["blank"], odd["long"]) == (["blank.png"], ["long.png"])
    assert result["unchecked_for_odd"] == 0
    pictures = (tmp_path / "out" / "report.html").read_text().count("data:image/png;base64,")
    assert pictures == 2 + sum(map(len, odd.values()))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom")
    make_phantom(root, patients=90, image_size=64, seed=2, workers=1)
    return root


@pytest.mark.parametrize("packed", [False, True])
def test_views_that_look_wrong_are_named(phantom, tmp_path, packed):
    shutil.copytree(phantom, tmp_path / "phantom")
    manifest = Manifest.read(tmp_path / "phantom" / "manifest.parquet")
    views = manifest.column("view_position").copy()
    frontal, lateral = np.flatnonzero(views != "LATERAL")[3:6], np.flatnonzero(views == "LATERAL")[[4]]
    views[frontal], views[lateral] = "LATERAL", "PA"
    place = manifest.table.column_names.index("view_position")
    table = manifest.table.set_column(place, "view_position", pa.array(views.tolist()))
    Manifest(table, manifest.root).write(tmp_path / "phantom" / "manifest.parquet")
    root = tmp_path / "phantom"
    if packed:
        root = tmp_path / "pack"
        words = ["pack", "--source", "csv-manifest", "--root", str(tmp_path / "phantom"), "--out", str(root)]
        assert main(words) == 0
    result = audit_sets([root], tmp_path / "out")
    found = {x["path"].removeprefix("csv-manifest/"): x["view"] for x in result["views"]["wrong"]}
    names = manifest.column("path")
    assert found == dict.fromkeys(names[frontal], "LATERAL") | dict.fromkeys(names[lateral], "PA")
    assert "4 look like the other kind" in (tmp_path / "out" / "report.md").read_text()


def test_images_unlike_the_others_of_a_large_set_are_named():
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[-1:1:64j, -1:1:64j]

    def chest():
        a, b, c, d = generator.normal(0, 0.03, 4)
        lungs = sum(np.exp(-(((columns - x - a) / 0.3) ** 2) - ((rows - b) / (0.6 + c)) ** 2) for x in (-0.5, 0.5))
        return np.uint8(200 - 150 * lungs / lungs.max() + generator.integers(0, 20, (64, 64)) + 10 * d * rows)

    hashes = [perceptual_hash(chest()) for _ in range(600)]
    strange = [perceptual_hash(generator.integers(0, 256, (64, 64)).astype(np.uint8)) for _ in range(6)]
    strange.append(perceptual_hash(np.tile(np.uint8([[0, 255], [255, 0]]), (32, 32)).repeat(9, 1)))
    found = unlike([*hashes, *strange, ""])
    assert set(found[:7].tolist()) == set(range(600, 607))  # the farthest first
    assert len(found) < 0.05 * 600
    assert not len(unlike(hashes[:100] + strange))  # too few to say what is usual


def test_views_are_not_judged_by_a_few(leaky):
    result = audit_sets([leaky / "one.csv"], leaky / "out")
    why = "at least 20 of both are needed to tell them apart"
    assert result["views"] == {"frontal": 0, "lateral": 0, "why_not": why, "wrong": []}
    assert "so no image is named here" in (leaky / "out" / "report.md").read_text()


def test_changed_file_is_read_again(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(texture(1)).save(tmp_path / name)
    assert audit_sets([tmp_path], tmp_path / "out")["exact_pairs"] == 1
    Image.fromarray(texture(2)).save(tmp_path / "b.png")
    assert audit_sets([tmp_path], tmp_path / "out")["exact_pairs"] == 0


@pytest.mark.parametrize("file", ["decode_raster.py", "fingerprint.py", "grey.py"])
def test_fingerprints_of_other_code_are_taken_anew(tmp_path, package, file):
    path, cache = tmp_path / "images/a.bmp", tmp_path / "hashes.parquet"
    path.parent.mkdir()
    Image.fromarray(texture(1)).save(path)
    before, status = measure([open_set(path.parent)], cache)["sha1"], path.stat()
    # Other pixels behind the same size and time, which only reading notices.
    Image.fromarray(texture(2)).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert measure([open_set(path.parent)], cache)["sha1"] == before
    (package / "data" / file).write_text("# other\n")
    assert measure([open_set(path.parent)], cache)["sha1"] != before


def test_fingerprints_of_the_packer_are_used(tmp_path):
    Image.fromarray(texture(1)).save(tmp_path / "a.png")
    phash = perceptual_hash(texture(1))
    Manifest.from_columns({"path": ["a.png"], "sha1": ["0" * 40], "phash": [phash]}, root=tmp_path).write(
        tmp_path / "m.parquet"
    )
    found = measure([open_set(tmp_path / "m.parquet")], tmp_path / "hashes.parquet")
    assert found["sha1"].tolist() == ["0" * 40]
    assert found["width"].tolist() == [0]


def test_a_patient_in_two_splits_is_reported_and_not_refused(tmp_path):
    for number in range(2):
        Image.fromarray(texture(number)).save(tmp_path / f"{number}.png")
    (tmp_path / "m.csv").write_text("path,patient_id,split\n0.png,p,train\n1.png,p,test\n")
    leaks = audit_sets([tmp_path / "m.csv"], tmp_path / "out")["patient_leaks"]
    assert leaks[0]["kind"] == "within a set"


def small_hashes(count, seed=0):
    generator = np.random.default_rng(seed)
    return ["".join(f"{digit:x}" for digit in generator.integers(0, 16, DIGITS)) for _ in range(count)]


@pytest.mark.parametrize(
    ("patients", "said"), [(["one"] * 80, "too few patients"), ([f"p{n}" for n in range(80)], "names do not tell")]
)
def test_views_of_one_patient_or_of_no_meaning_are_not_judged(patients, said):
    views = np.array(["PA", "LATERAL"] * 40, object)
    found = check_views(small_hashes(80), views, np.array(patients, object))
    assert said in found.why_not
    assert not len(found.wrong)


def test_an_index_of_ones_own_is_a_manifest(tmp_path):
    Image.fromarray(texture(1)).save(tmp_path / "a.png")
    Manifest.from_columns({"path": ["a.png"]}, root=tmp_path).write(tmp_path / "index.parquet")
    assert audit_sets([tmp_path], tmp_path / "out")["sets"][0]["images"] == 1


def test_columns_of_an_older_pack_are_not_taken_for_what_the_packer_measured(tmp_path):
    out = make_pack(tmp_path / "pack", source=["made"] * 8, grey_std=["0.3", "high"] * 4)
    measured = measure([open_set(out)], tmp_path / "hashes.parquet")
    assert not len(odd_images(measured)["blank"])
    assert np.isnan(measured["std"]).all()


def test_a_set_of_which_nothing_can_be_read_is_refused(leaky, tmp_path):
    """As one whose manifest was written elsewhere: that nothing was found would pass for nothing wrong."""
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(leaky / "one.csv", tmp_path / "elsewhere" / "nih.csv")
    first = re.escape(str(tmp_path / "elsewhere" / "images" / "0.png"))
    with pytest.raises(ManifestError, match=rf"no image of nih can be read, .* first of 15 is {first} .*: put the"):
        audit_sets([leaky / "one.csv", tmp_path / "elsewhere" / "nih.csv"], tmp_path / "out")
    assert not (tmp_path / "out" / "exclude.csv").exists()
    pack = make_pack(tmp_path / "pack", source=["made"] * 8)
    with pytest.raises(ManifestError, match=r"no image of pack can be read.*: pack the images again"):
        audit_sets([pack], tmp_path / "out")


def test_groups_join_through_a_shared_image():
    assert groups_of(6, np.array([[0, 3], [3, 5], [1, 2]])) == [[0, 3, 5], [1, 2]]


def test_exclusions_keep_the_test_image_and_otherwise_the_largest():
    split = np.array(["train", "test", "train", "train"], object)
    same = np.full(4, "s", object)
    rows = Rows(same, np.array(list("abcd"), object), same, split, same, same)
    found = exclusions([[0, 1], [2, 3]], rows, np.array([9, 1, 1, 9]), np.array(list("xxyz"), object))
    assert [(row["path"], row["reason"].split(":")[0]) for row in found] == [
        ("a", "exact copy of a test image"),
        ("c", "near copy"),
    ]


def test_copies_in_one_split_or_between_pools_are_no_leak():
    sets, split = np.array(list("aab"), object), np.array(["train", "train", "train"], object)
    rows = Rows(sets, sets, sets, split, sets, sets)
    assert split_leaks([[0, 1, 2]], rows) == []


def confounded(labels, sources):
    columns = {"path": [str(n) for n in range(len(labels))], "label_x": labels, "source": sources}
    manifest = Manifest.from_columns(columns, root=".")
    return confounding([AuditSet("s", manifest, manifest.column("split"))])[0]


def test_label_that_equals_the_source_is_flagged():
    found = confounded([1.0] * 20 + [0.0] * 20, ["a"] * 20 + ["b"] * 20)
    assert found["flagged"]
    assert found["auroc"] == pytest.approx(1)
    assert found["information"] == pytest.approx(1)


def test_label_that_the_origin_within_a_source_tells_is_flagged(tmp_path):
    for number in range(4):
        Image.fromarray(texture(number)).save(tmp_path / f"{number}.png")
    rows = "\n".join(f"{number}.png,{'ricord' if number % 2 else 'rsna'},{number % 2}" for number in range(4))
    (tmp_path / "manifest.csv").write_text(f"path,source,label_covid\n{rows}\n")
    words = ["pack", "--source", "csv-manifest", "--root", str(tmp_path), "--out", str(tmp_path / "pack")]
    assert main(words) == 0
    for path in ("manifest.csv", "pack"):  # in the pack all are of csv-manifest
        (found,) = confounding([open_set(tmp_path / path)])
        assert found["flagged"]


def with_origins(name, label, origins):
    columns = {"path": [f"{n}.png" for n in range(len(origins))], "origin": origins, "label_x": [label] * len(origins)}
    manifest = Manifest.from_columns(columns, root=".")
    return AuditSet(name, manifest, manifest.column("split"))


def test_origins_of_one_name_in_two_sets_are_not_one():
    (found,) = confounding([with_origins(name, label, ["rsna", "sirm"] * 20) for name, label in (("a", 1), ("b", 0))])
    assert found["flagged"]
    assert set(found["sources"]) == {"a: rsna", "a: sirm", "b: rsna", "b: sirm"}


def test_an_origin_that_every_image_has_for_itself_tells_nothing():
    sets = [with_origins(name, 1, [f"{name}{n}" for n in range(120)]) for name in "ab"]
    labels = np.arange(240) % 2
    sets = [
        AuditSet(s.name, Manifest(s.manifest.table.set_column(
            s.manifest.table.column_names.index("label_x"), "label_x", pa.array(part, pa.float32())), Path()), s.splits)
        for s, part in zip(sets, np.split(labels, 2), strict=True)
    ]  # fmt: skip
    (found,) = confounding(sets)
    assert not found["flagged"]
    assert set(found["sources"]) == {"a", "b"}


def test_label_that_is_alike_in_all_sources_is_not():
    found = confounded([1.0, 0.0] * 20, ["a"] * 20 + ["b"] * 20)
    assert not found["flagged"]
    assert found["auroc"] == pytest.approx(0.5)
    assert found["information"] == pytest.approx(0)


def test_index_finds_what_comparing_all_pairs_finds(monkeypatch):
    generator = np.random.default_rng(0)
    digits = generator.integers(0, 16, (3000, DIGITS)).astype(np.uint8)
    digits[2900:] = np.clip(digits[:100].astype(int) + generator.integers(-1, 2, (100, DIGITS)), 0, 15)
    planted = {(n, 2900 + n) for n in range(100)}
    assert set(map(tuple, candidates(digits).pairs.tolist())) >= planted
    monkeypatch.setattr(audit_duplicates, "_EXHAUSTIVE", 0)
    assert len(planted & set(map(tuple, candidates(digits, similar=0.6).pairs.tolist()))) >= 99


@pytest.mark.parametrize("exhaustive", [0, 20_000])
@pytest.mark.parametrize("heart", [0, 3])
def test_flips_are_told_whether_or_not_images_have_a_heavier_side(monkeypatch, exhaustive, heart):
    monkeypatch.setattr(audit_duplicates, "_EXHAUSTIVE", exhaustive)
    generator = np.random.default_rng(0)
    sides = np.where(mirrored(np.zeros((1, DIGITS), np.uint8))[0] > 0, heart, 0)
    digits = np.clip(generator.integers(0, 16, (2000, DIGITS)) + sides, 0, 15).astype(np.uint8)
    digits[1900:1950], digits[1950:] = mirrored(digits[:50]), digits[50:100]
    found = candidates(digits, similar=0.8)
    flips = dict(zip(map(tuple, found.pairs.tolist()), found.flipped.tolist(), strict=True))
    assert flips == {(n, 1900 + n): n < 50 for n in range(100)}


@pytest.mark.parametrize("exhaustive", [0, 20_000])
def test_only_pairs_of_a_marked_image_and_another_one_are_asked_for(monkeypatch, exhaustive):
    monkeypatch.setattr(audit_duplicates, "_EXHAUSTIVE", exhaustive)
    generator = np.random.default_rng(0)
    digits = np.repeat(generator.integers(0, 16, (50, DIGITS)), 4, axis=0).astype(np.uint8)
    marked = np.arange(200) % 4 == 3
    found = candidates(digits, similar=0.6, marked=marked).pairs
    assert set(map(tuple, found.tolist())) == {(4 * n + other, 4 * n + 3) for n in range(50) for other in range(3)}


def test_recall_and_precision_on_radiographs(cxr_root, tmp_path):
    generator = np.random.default_rng(7)
    files = sorted((cxr_root / "images").iterdir())[::9]
    for number, path in enumerate(files[:150]):
        (tmp_path / f"{number:04}.jpg").write_bytes(altered(decode(path), generator))
    copies = sorted(tmp_path.iterdir())
    paths = files + copies
    pairs, _, _ = near_pairs(lambda row: small_image(paths[row]), [perceptual_hash(decode(path)) for path in paths])
    planted = {(n, len(files) + n) for n in range(150)}
    found = set(map(tuple, pairs.tolist()))
    assert len(planted & found) >= 0.95 * len(planted)
    assert len(planted & found) >= 0.99 * len(found)


def test_no_leak_in_the_reference_set(cxr_root):
    found = confounding([open_set(cxr_root / "manifest.csv")])
    assert [row["label"] for row in found if row["flagged"]] == ["label = COVID-19"]
