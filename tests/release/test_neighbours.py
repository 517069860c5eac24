"""Feature tables are written and searched as arrays, a part at a time, and what is no such table is answered."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import warm
from cxrbase.errors import ConfigError
from cxrbase.release.demo.neighbours import Neighbours
from cxrbase.release.embed import join_parts

ABOUT = {"weights_sha256": "w"}


def part(rows, *, first=0, cls=True, good=lambda row: True, width=8):
    features = np.random.default_rng(first).standard_normal((rows, 2, width)).astype(np.float32)
    kind, numbers = pa.list_(pa.float32(), width), range(first, first + rows)
    columns = {"path": [f"{n}.png" for n in numbers], "sha256": [""] * rows}
    columns |= {"warnings": ["small" if n % 3 == 0 else "" for n in numbers]}
    columns |= {"error": ["" if good(n) else "damaged" for n in numbers]}
    for at, name in enumerate(("cls", "patch_mean")):
        there = name != "cls" or cls
        columns[name] = pa.array([f[at] if there and good(n) else None for n, f in zip(numbers, features, strict=True)],
                                 kind)  # fmt: skip
    return pa.table(columns)


def write_parts(folder, parts):
    folder.mkdir()
    for number, table in enumerate(parts):
        pq.write_table(table, folder / f"{number:06d}.parquet")
    return folder


def test_joined_parts_are_one_table_in_order(tmp_path):
    parts = [part(7, first=7 * n, good=lambda row: row % 5 != 2) for n in range(12)]
    found = join_parts(write_parts(tmp_path / "parts", parts), tmp_path / "all.parquet", about=ABOUT)
    table = pq.ParquetFile(tmp_path / "all.parquet").read()
    assert table.equals(pa.concat_tables(parts))
    assert json.loads(table.schema.metadata[b"cxrbase"]) == ABOUT
    assert found == (84, sum(n % 5 == 2 for n in range(84)), 28)


def test_the_nearest_are_those_of_a_plain_product(tmp_path):
    parts = [part(20, first=20 * n, good=lambda row: row % 7 != 1) for n in range(3)]
    join_parts(write_parts(tmp_path / "parts", parts), tmp_path / "all.parquet", about=ABOUT)
    rows = [row for row in pa.concat_tables(parts).to_pylist() if not row["error"]]
    features = np.array([row["cls"] + row["patch_mean"] for row in rows])
    asked = features[30] + 0.3 * features[4]
    similar = features @ asked / np.linalg.norm(features, axis=1) / np.linalg.norm(asked)
    order = np.argsort(-similar)[:5]
    found = Neighbours(tmp_path / "all.parquet", weights_sha256="w").nearest(asked.astype(np.float32))
    assert [name for name, _ in found] == [rows[n]["path"] for n in order]
    assert [value for _, value in found] == pytest.approx(similar[order], abs=1e-6)


def test_an_encoder_without_class_token_is_searched_by_its_patches(tmp_path):
    join_parts(write_parts(tmp_path / "parts", [part(9, cls=False)]), tmp_path / "all.parquet", about=ABOUT)
    asked = np.array(part(9)["patch_mean"][4].as_py(), np.float32)
    assert Neighbours(tmp_path / "all.parquet", weights_sha256="w").nearest(asked, count=1)[0][0] == "4.png"


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ([[1.0, 2.0], [3.0]], "not of one length"),
        (pa.array([[], []], pa.list_(pa.float32())), "not of one length"),
        (["a", "b"], "not lists of numbers"),
        ([[1], [2]], "not lists of numbers"),
        ([None, None], "holds no features"),
    ],
)
def test_a_table_with_other_features_is_answered(features, said, tmp_path):
    table = pa.table({"path": ["a", "b"], "cls": features, "patch_mean": features})
    pq.write_table(table.replace_schema_metadata({"cxrbase": json.dumps(ABOUT)}), tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match=said):
        Neighbours(tmp_path / "t.parquet", weights_sha256="w")


TAKEN = """
import resource, sys
from pathlib import Path
from cxrbase.release.demo.neighbours import Neighbours
from cxrbase.release.embed import join_parts
parts, out = map(Path, sys.argv[1:])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
join_parts(parts / "one", out.with_name("first.parquet"), about={})
before = peak()
join_parts(parts, out, about={"weights_sha256": "w"})
joined = peak()
Neighbours(out, weights_sha256="w")
print(joined - before, peak() - joined)
"""


@pytest.mark.slow
def test_neither_joining_nor_searching_takes_many_times_the_features(tmp_path):
    one = part(1024, width=1024)  # 8 MB
    parts = write_parts(tmp_path / "parts", [one] * 24)
    write_parts(parts / "one", [one])
    done = warm.run(["-c", TAKEN, parts, tmp_path / "all.parquet"])
    assert done.returncode == 0, done.stderr[-2000:]
    joined, searched = map(int, done.stdout.split())
    assert joined < 100, "MB, of 200"
    assert searched < 1.5 * 200, "MB: the features once"
