"""What cards and packs say of how files are read, and what is made of it."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cxrbase.data.pack import pack
from cxrbase.data.pack_image import ImageOptions
from cxrbase.data.reading import Reading
from cxrbase.data.shard_index import ShardIndex
from cxrbase.data.shards import INDEX, METADATA_KEY
from cxrbase.errors import ConfigError, ShardError
from packs import make_pack

ALL = [Reading(), Reading("dicom"), Reading(crop_borders=True), Reading("dicom", True)]


@pytest.mark.parametrize("reading", ALL)
def test_values_make_the_reading_again_and_no_values_the_default(reading):
    assert Reading.of(json.loads(json.dumps({"mean": 0.5, **reading.values()}))) == reading
    assert Reading.of({"mean": 0.5}) == Reading() == Reading("percentile", crop_borders=False)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ({"window": "lung"}, "window must be one of percentile, dicom, got 'lung'"),
        ({"window": ["dicom"]}, "window must be one of"),
        ({"window": None}, "window must be one of"),
        ({"crop_borders": "no"}, "crop_borders must be true or false, got 'no'"),
    ],
)
def test_values_that_there_are_not_are_one_sentence(said, answer):
    with pytest.raises(ConfigError, match=answer):
        Reading.of(said)


def test_only_packed_images_of_another_reading_are_warned_of():
    for one in ALL:
        for other in ALL:
            warnings = one.unlike(other)
            assert bool(warnings) == (one != other)
            assert all(f"learnt from images of {one}" in text and f"packed with {other}" in text for text in warnings)
    (text,) = Reading("dicom", True).unlike(Reading())
    assert text.endswith("pack them again with --window dicom --crop_borders")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for number in range(3):
        framed = np.pad(np.full((30, 40), 90 + number, np.uint8), 8)
        Image.fromarray(framed).save(root / f"{number}.png")
    return root


@pytest.mark.parametrize("reading", ALL)
def test_an_index_says_how_its_files_were_read_and_a_cropped_one_says_so_in_words(reading, folder, tmp_path):
    pack([("folder", str(folder))], tmp_path, options=ImageOptions(size=32, **reading.values()), jobs=1)
    index = ShardIndex(tmp_path / INDEX)
    assert index.reading == reading
    assert index.intensity == index.metadata["intensity"] == reading.convention
    assert ("black borders cut off" in index.intensity) == reading.crop_borders


def retold(index, **changes):
    """The same index with other metadata, as another version or hand would have written it."""
    table = pq.read_table(index)
    metadata = json.loads(table.schema.metadata[METADATA_KEY]) | changes
    kept = {METADATA_KEY: json.dumps({key: value for key, value in metadata.items() if value is not None})}
    pq.write_table(table.replace_schema_metadata(kept), index)


def test_indices_of_earlier_versions_say_it_too(tmp_path):
    make_pack(tmp_path, label_x=[1, 0])
    assert ShardIndex(tmp_path / INDEX).reading == Reading()  # without values at all
    retold(tmp_path / INDEX, window="dicom", crop_borders=True)
    index = ShardIndex(tmp_path / INDEX)
    assert index.reading == Reading("dicom", True)
    assert index.intensity == "bone bright, as packed; black borders cut off"
    retold(tmp_path / INDEX, window="lung")
    with pytest.raises(ShardError, match=r"index\.parquet does not say how .* got 'lung'\): pack them again"):
        _ = ShardIndex(tmp_path / INDEX).reading


@pytest.mark.parametrize("packed", [False, True])
def test_a_run_writes_down_how_the_files_of_its_images_were_read(packed, folder, fit, tmp_path):
    if packed:
        pack([("folder", str(folder))], tmp_path / "p", options=ImageOptions(size=32, crop_borders=True), jobs=1)
    wanted = Reading(crop_borders=True) if packed else Reading("dicom", True)
    words = [f"--data.root={tmp_path / 'p' if packed else folder}", "--data.pretrain_on=[train,val,test]"]
    words += [] if packed else ["--data.window=dicom", "--data.crop_borders=true"]
    fit("mae", *words, "--trainer.max_steps=1", "--data.batch_size=2", "--probe.enabled=false")
    card = json.loads((fit.run_dir / "encoder.json").read_text())
    assert (card["window"], card["crop_borders"]) == (wanted.window, wanted.crop_borders)
    assert card["intensity"] == wanted.convention
