"""What an audit says to leave out is left out, by packing and by training, whatever the images are called there."""

import csv
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from commands import command
from cxrbase.cli import main
from cxrbase.data import shards
from cxrbase.data.audit_images import open_set
from cxrbase.data.manifest import Manifest
from cxrbase.data.manifest_excluded import NamedImages, excluded
from cxrbase.data.manifest_exclusions import read_exclusions
from cxrbase.errors import ManifestError
from data.sources.trees_large import MAKERS

ALL = ["--data.pretrain_on=[train,val,test]", "--checkpoint.every_n_train_steps=1", "--probe.enabled=false"]


def photograph(seed):
    """Structure of two scales that no other seed has."""
    generator = np.random.default_rng(seed)
    coarse, fine = (
        Image.fromarray(generator.random((cells, cells), np.float32)).resize((96, 96), Image.Resampling.BICUBIC)
        for cells in (6, 24)
    )
    return np.uint8(np.clip(110 * np.asarray(coarse) + 110 * np.asarray(fine), 0, 255))


PHOTOGRAPHS = [photograph(seed) for seed in range(40)]


def write(folder, images):
    """Images by name."""
    folder.mkdir(parents=True)
    for name, image in images.items():
        Image.fromarray(image).save(folder / name)
    return folder


def audit(out, *places):
    assert main(["audit", *map(str, places), "--out", str(out), "--threads", "1"]) == 0
    with (out / "exclude.csv").open() as file:
        return [(row["source"], row["path"], row["sets"]) for row in csv.DictReader(file)]


def packed(out, *sources, exclude=None):
    """Paths in the pack of some sources, `<name>=<data set>` and folder."""
    words = [word for name, root in sources for word in ("--source", name, "--root", str(root))]
    more = ["--exclude", str(exclude)] if exclude else []
    assert main(["pack", *words, "--out", str(out), "--size", "32", "--jobs", "1", *more]) == 0
    return Manifest.read(out / shards.INDEX).column("path").tolist()


def drawn(root, run_dir, *words, exclude, data="folder"):
    """Images that `cxrbase fit` draws from."""
    select = f"--data.select.exclude=[{exclude}]"
    words = [*ALL, "--trainer.max_steps=1", f"--data.cache_dir={run_dir}-cache", select, *words]
    assert main(command("mae", *words, root=root, run_dir=run_dir, data=data)) == 0
    return torch.load(run_dir / "last.ckpt", weights_only=True)["CXRDataModule"]["stream"]["n"]


def test_a_pack_is_not_gone_on_with_by_a_list_of_as_many_other_images(tmp_path, capfd):
    images = write(tmp_path / "images", {f"{number}.png": image for number, image in enumerate(PHOTOGRAPHS[:6])})
    first, second = (tmp_path / f"{number}.csv" for number in range(2))
    for number, file in enumerate((first, second)):
        file.write_text(f"source,path,reason\nmine,{number}.png,near copy\n")
    paths = packed(tmp_path / "pack", ("mine=folder", images), exclude=first)
    assert paths == [f"mine/{number}.png" for number in range(1, 6)]
    words = ["pack", "--source", "mine=folder", "--root", str(images), "--out", str(tmp_path / "pack")]
    assert main([*words, "--size", "32", "--jobs", "1", "--exclude", str(second)]) == 1
    assert "was begun with other exclusion lists for mine" in capfd.readouterr().err


def test_the_audit_of_a_folder_is_heeded_by_packing_and_training_under_any_name(tmp_path, capfd):
    names = {f"{number}.png": image for number, image in enumerate(PHOTOGRAPHS[:10])}
    images = write(tmp_path / "images", names | {"copy.png": PHOTOGRAPHS[0]})
    # Without official splits patients are dealt; of the two, one is for training and the other is not, which is kept.
    assert audit(tmp_path / "audit", images) == [("images", "0.png", "1")]
    exclude = tmp_path / "audit" / "exclude.csv"
    assert packed(tmp_path / "without", ("mine=folder", images), exclude=exclude) == [
        *(f"mine/{n}.png" for n in range(1, 10)),
        "mine/copy.png",
    ]
    assert len(packed(tmp_path / "all", ("mine=folder", images))) == 11
    assert drawn(images, tmp_path / "one", exclude=exclude) == 10
    assert drawn(tmp_path / "all", tmp_path / "two", exclude=exclude, data="shards") == 10
    said = capfd.readouterr().err
    assert said.count("1 of 1 entries name images of images, which are left out") == 1
    assert said.count("1 of 1 entries name images of mine, which are left out") == 2
    assert "name no image" not in said
    images.rename(tmp_path / "moved")
    assert "mine/0.png" not in packed(tmp_path / "again", ("mine=folder", tmp_path / "moved"), exclude=exclude)
    assert "nothing here is called images, so its entries are taken by their paths alone" in capfd.readouterr().err


def test_of_two_sets_with_files_of_one_name_only_the_one_that_is_named_is_left_out(tmp_path, capfd):
    names = {f"{number}.png": image for number, image in enumerate(PHOTOGRAPHS[:9])}
    one = write(tmp_path / "one", names)
    two = write(tmp_path / "two", {f"{n}.png": PHOTOGRAPHS[20 + n] for n in range(8)} | {"8.png": PHOTOGRAPHS[8]})
    assert audit(tmp_path / "audit", one, two) == [("two", "8.png", "2")]
    exclude = tmp_path / "audit" / "exclude.csv"
    both = [("a=folder", one), ("b=folder", two)]
    whole = [*(f"a/{n}.png" for n in range(9)), *(f"b/{n}.png" for n in range(8))]
    assert packed(tmp_path / "pack", *both, exclude=exclude) == whole
    assert len(packed(tmp_path / "alone", both[0], exclude=exclude)) == 9
    assert "1 of 1 entries name no image of a, the first is 8.png of two; nothing here is called two" in (
        capfd.readouterr().err
    )
    assert packed(tmp_path / "all", *both) == [*whole, "b/8.png"]
    assert drawn(one, tmp_path / "first", exclude=exclude) == 9
    assert drawn(two, tmp_path / "second", exclude=exclude) == 8
    assert drawn(tmp_path / "all", tmp_path / "third", exclude=exclude, data="shards") == 17


def test_sets_of_one_source_are_told_apart_by_their_names(tmp_path):
    images = {f"{number}.png": image for number, image in enumerate(PHOTOGRAPHS[:4])}
    others = {f"{number}.png": image for number, image in enumerate(PHOTOGRAPHS[10:13])} | {"3.png": PHOTOGRAPHS[3]}
    places = [write(tmp_path / "one", images), write(tmp_path / "two", others)]
    for place in places:
        (place / "manifest.csv").write_text("path,source\n" + "".join(f"{n}.png,nih\n" for n in range(4)))
    assert audit(tmp_path / "audit", *places) == [("two", "3.png", "2")]
    sources = [(f"{name}=csv-manifest", place) for name, place in zip("ab", places, strict=True)]
    found = packed(tmp_path / "pack", *sources, exclude=tmp_path / "audit" / "exclude.csv")
    assert found == [*(f"a/{n}.png" for n in range(4)), *(f"b/{n}.png" for n in range(3))]


def test_a_set_that_was_put_together_keeps_its_sources_beside_its_origins(tmp_path):
    """Its audit names images by their sources, of which packing makes one."""
    names = {f"{number}.png": image for number, image in enumerate(PHOTOGRAPHS[:8])}
    place = write(tmp_path / "set", names | {"3.png": PHOTOGRAPHS[2], "7.png": PHOTOGRAPHS[6]})
    rows = "".join(f"{n}.png,{'nih' if n < 4 else 'covidx'},{'' if n < 4 else 'cohen'},train\n" for n in range(8))
    (place / "manifest.csv").write_text(f"path,source,origin,split\n{rows}")
    listed = [(source, path) for source, path, _ in audit(tmp_path / "audit", place)]
    assert sorted(listed) == [("covidx", "7.png"), ("nih", "3.png")]
    found = packed(tmp_path / "pack", ("mine=csv-manifest", place), exclude=tmp_path / "audit" / "exclude.csv")
    assert found == [f"mine/{n}.png" for n in (0, 1, 2, 4, 5, 6)]
    table = Manifest.read(tmp_path / "pack" / shards.INDEX)
    assert table.column("original_source").tolist() == ["nih"] * 3 + ["covidx"] * 3
    assert table.column("origin").tolist() == [""] * 3 + ["cohen"] * 3
    origins = open_set(tmp_path / "pack").origins
    assert set(origins) == {"mine: nih", "mine: covidx: cohen"}


def test_a_known_data_set_is_known_under_a_name_of_its_own(tmp_path):
    root, manifest = tmp_path / "download", tmp_path / "some.parquet"
    MAKERS["nih"](root)
    assert main(["sources", "--name", "nih", "--root", str(root), "--out", str(manifest), "--partial"]) == 0
    table = Manifest.read(manifest)
    words = ["pack", "--source", "mine=nih", "--root", str(root), "--size", "32", "--jobs", "1", "--partial"]
    words += ["--max_bad", "1", "--out"]
    assert main([*words, str(tmp_path / "all")]) == 0
    paths = Manifest.read(tmp_path / "all" / shards.INDEX).column("path").tolist()
    copy = paths[0].removeprefix("mine/")
    assert copy in table.column("path")[table.column("source") == "nih"]
    (tmp_path / "list.csv").write_text(f"source,path\nnih,{copy}\n")
    assert main([*words, str(tmp_path / "without"), "--exclude", str(tmp_path / "list.csv")]) == 0
    assert Manifest.read(tmp_path / "without" / shards.INDEX).column("path").tolist() == paths[1:]


def images(paths, sources="", *, called=None, origins=None):
    """A table whose images are called so."""
    columns = {"path": paths, "source": [sources] * len(paths) if isinstance(sources, str) else sources}
    columns |= {} if origins is None else {"origin": origins}
    return NamedImages(Manifest.from_columns(columns, root="/"), called or {})


def left_out(tmp_path, tables, *texts):
    files = [tmp_path / f"{number}.csv" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return [np.flatnonzero(mask).tolist() for mask in excluded(read_exclusions(files), tables)]


NIH = images(["a.png", "b.png", "nih/c.png"], "nih")
FOLDER = images(["a.png", "b.png"], called={"": ["here"]})
PACK = images(["a/0.png", "a/1.png", "b/0.png"], ["a", "a", "b"], called={"a": ["first", "folder"], "b": ["second"]})
MIXED = images(["m/0.png", "m/1.png"], "m", called={"m": ["old"]}, origins=["x", "y"])
NESTED = images(["c.png", "nih/c.png"], "nih")


@pytest.mark.parametrize(
    ("table", "text", "rows"),
    [
        (NIH, "source,path,reason\nnih,a.png,copy\nother,b.png,copy\n", [0]),
        (NIH, "path\nnih/a.png\nc.png\n", [0, 2]),
        (NIH, "source,path\n,b.png\n", [1]),
        # A list by hand: a folder does not say what source it is of, so its images may be meant; another source is not.
        (FOLDER, "source,path\nnih,a.png\n,b.png\n", [0, 1]),
        (FOLDER, "source,path\nnih,nih/a.png\n", [0]),
        (FOLDER, "source,path\nnih,a.png\nbrax,b.png\n", []),
        (FOLDER, "source,path\nnih,a.png\nhere,b.png\n", [1]),
        (NIH, "source,path\nelse,a.png\n", []),
        # The audit of one set that was moved, of several, and of its pack.
        (NIH, "source,path,sets\nelse,a.png,1\n", [0]),
        (NIH, "source,path,sets\nelse,a.png,2\n", []),
        (FOLDER, "source,path,sets\nelse,a.png,2\n", []),
        (FOLDER, "source,path,sets\nmine,mine/a.png,1\n", [0]),
        # Two audits of one set each, one after the other in a file.
        (FOLDER, "source,path,sets\nelse,a.png,1\nhere,b.png,1\n", [1]),
        (FOLDER, "source,path,sets\nelse,a.png,1\nother,b.png,1\n", []),
        (PACK, "source,path,sets\nfirst,0.png,2\n", [0]),
        (PACK, "source,path,sets\nsecond,0.png,2\n", [2]),
        (PACK, "source,path\nb,b/0.png\na,1.png\n", [1, 2]),
        (PACK, "path\n0.png\n", [0, 2]),
        (PACK, "path\na/0.png\n", [0]),
        (MIXED, "source,path\nx,0.png\nx,1.png\nold,m/1.png\n", [0, 1]),
        (NESTED, "source,path\nnih,c.png\n", [0]),
        (NESTED, "source,path\nnih,nih/c.png\n", [1]),
        (PACK, "path\n", []),
    ],
)
def test_an_entry_names_the_images_it_means(table, text, rows, tmp_path):
    assert left_out(tmp_path, [table], text) == [rows]


def test_lists_beside_each_other_tell_other_sets_apart(tmp_path):
    texts = ["source,path,sets\nhere,a.png,1\n", "source,path,sets\nelse,b.png,1\n"]
    assert left_out(tmp_path, [FOLDER], *texts) == [[0]]
    assert left_out(tmp_path, [FOLDER], texts[1]) == [[1]]


def test_what_may_mean_two_sources_is_refused_with_what_to_write(tmp_path):
    twice = images(["0.png"], "x", called={"x": ["same"]}), images(["0.png", "1.png"], "y", called={"y": ["same"]})
    assert left_out(tmp_path, twice, "source,path\nsame,1.png\n,0.png\n") == [[0], [0, 1]]
    assert left_out(tmp_path, twice, "source,path\ny,0.png\n") == [[], [0]]
    for text in ("source,path\nsame,0.png\n", "source,path,sets\nmoved,0.png,1\n"):
        with pytest.raises(ManifestError, match=r"names 0\.png of (same|moved), which may be that of x and y"):
            left_out(tmp_path, twice, text)


def test_entries_that_name_nothing_are_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    left_out(tmp_path, [PACK], "source,path,sets\na,0.png,2\na,7.png,2\nthird,0.png,2\n")
    assert "1 of 3 entries name images of a, b, which are left out" in caplog.text
    assert "2 of 3 entries name no image of a, b, the first is 7.png of a; nothing here is called third" in caplog.text


@pytest.mark.parametrize(
    ("name", "content"), [("none.csv", None), ("a.txt", b"path\n"), ("b.csv", b"x\n1\n"), ("c.parquet", b"junk")]
)
def test_what_is_no_list_is_refused(name, content, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match="exclusion list"):
        read_exclusions([tmp_path / name])


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=60), st.sampled_from(["csv", "parquet"]))
def test_any_bytes_as_an_exclusion_list_are_read_or_refused(tmp_path_factory, data, suffix):
    path = tmp_path_factory.mktemp("lists") / f"list.{suffix}"
    path.write_bytes((b"path\n" if suffix == "csv" else b"") + data)
    try:
        read_exclusions([path])
    except ManifestError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message
