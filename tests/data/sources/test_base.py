"""A source's folder is read whole, in part or not at all, and says which."""

from dataclasses import replace

import pytest
from PIL import Image

from cxrbase.data.sources.base import Source
from cxrbase.errors import ManifestError


def source(paths, images):
    return Source("tiny", "Tiny 1", "open", "CC0", ("one.png",), lambda root: {"path": list(paths)}, images)


@pytest.fixture
def root(tmp_path):
    Image.new("L", (8, 8), 90).save(tmp_path / "one.png")
    return tmp_path


def test_a_whole_download_is_read_and_named(root):
    assert source(["one.png"], 1).read(root).column("source").tolist() == ["tiny"]


def test_a_part_is_refused_with_the_published_count_and_read_on_request(root, caplog):
    lacking = source(["one.png", "two.png"], 2)
    with pytest.raises(ManifestError, match=r"1 of the 2 images of Tiny 1, first missing two\.png"):
        lacking.read(root)
    caplog.set_level("WARNING", "cxrbase")
    assert lacking.read(root, partial=True).column("path").tolist() == ["one.png"]
    assert "1 of the 2" in caplog.text


def test_fewer_patients_than_published_in_a_whole_download_are_refused_and_read_on_request(root, caplog):
    Image.new("L", (8, 8), 90).save(root / "two.png")
    patients = ["p1", ""]
    columns = {"path": ["one.png", "two.png"], "patient_id": patients}
    tiny = Source("tiny", "Tiny 1", "open", "CC0", (), lambda root: dict(columns), images=2, patients=2)
    with pytest.raises(ManifestError, match=r"of Tiny 1 in .* are of 1 of the 2 patients: download its tables again"):
        tiny.read(root)
    caplog.set_level("WARNING", "cxrbase")
    assert len(tiny.read(root, partial=True)) == 2
    assert "1 of the 2 patients; going on" in caplog.text
    patients[1] = "p2"
    assert len(tiny.read(root)) == 2
    # Some sets have parts that the published numbers leave out.
    assert len(replace(tiny, images=1, patients=1).read(root)) == 2


def test_patients_of_a_part_are_not_counted(root, caplog):
    caplog.set_level("WARNING", "cxrbase")
    columns = {"path": ["one.png", "two.png"], "patient_id": ["p1", "p2"]}
    tiny = Source("tiny", "Tiny 1", "open", "CC0", (), lambda root: dict(columns), images=2, patients=2)
    assert len(tiny.read(root, partial=True)) == 1
    assert "2 patients" not in caplog.text


def test_a_name_longer_than_a_file_system_allows_is_missing_and_not_a_crash(root):
    with pytest.raises(ManifestError, match="1 of the 2"):
        source(["one.png", "x" * 300 + ".png"], 2).read(root)


def test_missing_folders_and_folders_without_images_are_refused(root):
    with pytest.raises(ManifestError, match="no folder"):
        source(["one.png"], 1).read(root / "absent")
    with pytest.raises(ManifestError, match="holds no image of Tiny 1"):
        source([], 1).read(root)
    with pytest.raises(ManifestError, match="nothing to go on with"):
        source(["two.png"], 1).read(root, partial=True)
