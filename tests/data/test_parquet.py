"""Parquet files that hold far more than their size lets expect are refused before the memory is taken."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import warm
from cxrbase.data.manifest import Manifest
from cxrbase.data.parquet import ALWAYS, TIMES, LargeTableError, read_parquet
from cxrbase.data.shards import PACKED_FIELDS
from cxrbase.errors import ManifestError

ROWS = 10_000
LONG = "x" * 50_000  # in every row: half a gigabyte, of which a manifest has been three times as much
# What reading takes beyond what there was, in MB, in a process that cannot take 1.5 GB more.
READ = """
import json, resource, sys
from cxrbase.data.manifest import Manifest
from cxrbase.data.shard_index import ShardIndex
from cxrbase.data.shards import read_index
from cxrbase.errors import CXRBaseError
from cxrbase.release.demo.neighbours import Neighbours
readers = {
    "manifest": Manifest.read,
    "index": lambda path: ShardIndex(path).column("patient_id"),
    "pack": lambda path: read_index(path.rpartition("/")[0]),
    "features": lambda path: Neighbours(path, weights_sha256=""),
}
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 1_500_000_000,) * 2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for kind, path in json.loads(sys.argv[1]):
    try:
        readers[kind](path)
    except CXRBaseError as error:
        print(str(error))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def names(count=ROWS):
    return [f"{number}.png" for number in range(count)]


def repeated(text=LONG, count=ROWS):
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([text]))


def table(**columns):
    return pa.table({"path": names(), **columns})


def with_footer_that_lies(path):
    """Lets the footer say that the largest column has a thousand bytes, in a number of as many bytes."""
    said = max(pq.read_metadata(path).row_group(0).column(n).total_uncompressed_size for n in range(2))
    data, (true, lie) = path.read_bytes(), (varint(said), varint(1000))
    assert data.count(true) == 1
    path.write_bytes(data.replace(true, bytes(b | 128 for b in lie) + b"\x80" * (len(true) - len(lie) - 1) + b"\0"))
    found = [pq.read_metadata(path).row_group(0).column(n).total_uncompressed_size for n in range(2)]
    assert 1000 in found


def varint(number):
    number, found = 2 * number, []
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def write_manifests(folder):
    """Small files by what is large in them."""
    made = {name: folder / f"{name}.parquet" for name in ("dictionary", "typed", "page", "prefix", "rows")}
    plain = {"compression": "zstd", "use_dictionary": False}
    pq.write_table(table(sex=repeated()), made["dictionary"], compression="zstd", store_schema=False)
    pq.write_table(table(sex=repeated()), made["typed"], compression="zstd")
    pq.write_table(table(sex=[LONG] * ROWS), made["page"], **plain, data_page_size=2**31 - 1, max_rows_per_page=ROWS)
    with_footer_that_lies(made["page"])
    pq.write_table(table(sex=[LONG] * ROWS), made["prefix"], **plain, column_encoding={"sex": "DELTA_BYTE_ARRAY"})
    pq.write_table(pa.table({"path": pa.nulls(200_000_000)}), made["rows"], row_group_size=200_000_000)
    return made


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_small_file_takes_little_memory_whatever_it_holds(tmp_path):
    files = [("manifest", path) for path in write_manifests(tmp_path).values()]
    packed = {field.name: pa.array([0 if pa.types.is_integer(field.type) else ""] * ROWS, field.type)
              for field in PACKED_FIELDS}  # fmt: skip
    index = table(source=["a"] * ROWS, patient_id=repeated(), **packed)
    index = index.replace_schema_metadata({"cxrbase": json.dumps({"version": 1})})
    (tmp_path / "pack").mkdir()
    pq.write_table(index, tmp_path / "pack" / "index.parquet", compression="zstd")
    files += [("index", tmp_path / "pack" / "index.parquet"), ("pack", tmp_path / "pack" / "index.parquet")]
    features = table(cls=repeated(), patch_mean=repeated())
    features = features.replace_schema_metadata({"cxrbase": json.dumps({"weights_sha256": ""})})
    pq.write_table(features, tmp_path / "features.parquet", compression="zstd")
    files.append(("features", tmp_path / "features.parquet"))
    done = warm.run(["-c", READ, json.dumps([[kind, str(path)] for kind, path in files])])
    assert done.returncode == 0, done.stderr[-2000:]
    *said, taken = done.stdout.splitlines()
    assert len(said) == len(files), said
    for line, (_, path) in zip(said, files, strict=True):
        assert path.stat().st_size < 500_000
        assert str(path) in line
        assert "of memory" in line or "does not tell its size" in line
    assert int(taken) < 150, "MB"


def many_types():
    return pa.table(
        {
            "text": ["x", None, "x"],
            "large": pa.array(["x", None, "y"], pa.large_string()),
            "view": pa.array(["v"] * 3, pa.string_view()),
            "bytes": pa.array([b"1", b"2", None]),
            "fixed": pa.array([b"ab"] * 3, pa.binary(2)),
            "coded": pa.array(["q", "q", None]).dictionary_encode(),
            "number": pa.array([1.5, 2, None], pa.float32()),
            "truth": [True, None, False],
            "nothing": pa.nulls(3),
            "list": [[1.0, 2.0], [3.0], None],
            "a.b": ["1", "2", "3"],
        }
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"store_schema": False}, {"use_dictionary": False}, {"data_page_version": "2.0"}, {"row_group_size": 1},
     {"compression": "none"}, {"compression": "gzip", "write_page_index": True}],
    ids=str,
)  # fmt: skip
def test_what_is_read_is_what_pyarrow_reads(tmp_path, options):
    path = tmp_path / "t.parquet"
    pq.write_table(many_types(), path, **options)
    wanted = pq.ParquetFile(path).read()
    for read in (read_parquet(path), read_parquet(path.read_bytes())):
        assert read.equals(wanted)
        assert read.schema.equals(wanted.schema, check_metadata=True)
    assert read_parquet(path, columns=["number", "a.b"]).equals(wanted.select(["number", "a.b"]))
    assert pa.types.is_dictionary(read_parquet(path, columns=["text"], dictionaries=True)["text"].type)


def test_long_statistics_in_a_header_are_passed_over(tmp_path):
    values = [letter * 90_000 for letter in "abc"]
    pq.write_table(pa.table({"path": values}), tmp_path / "t.parquet", use_dictionary=False, max_rows_per_page=1)
    assert read_parquet(tmp_path / "t.parquet")["path"].to_pylist() == values


def test_the_bound_is_what_the_documentation_says(tmp_path):
    path = tmp_path / "t.parquet"

    def write(length):
        pq.write_table(table(sex=repeated("x" * length)), path, compression="zstd", store_schema=False)
        return ALWAYS + TIMES * path.stat().st_size - 2 * 16 * ROWS - sum(map(len, names()))

    room = write(1000) // ROWS
    write(int(0.95 * room))
    assert len(read_parquet(path)) == ROWS
    write(int(1.05 * room))
    with pytest.raises(LargeTableError, match="column sex it takes"):
        read_parquet(path)


def test_text_within_lists_is_refused_by_name(tmp_path):
    pq.write_table(pa.table({"path": ["a.png"], "remarks": [["a", "b"]]}), tmp_path / "t.parquet")
    with pytest.raises(ManifestError, match=r"t.parquet.*column remarks.list.element holds text within lists"):
        Manifest.read(tmp_path / "t.parquet")


def test_damaged_page_headers_are_answered(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"path": ["a.png", "b.png"]}), path)
    good = path.read_bytes()
    for value in (0, 0x1C, 0x19, 0xFF, 0x2D):
        path.write_bytes(good[:4] + bytes([value]) * 20 + good[24:])
        with pytest.raises(ManifestError, match="write it again"):
            Manifest.read(path)


def test_a_damaged_file_never_gives_columns_of_another_length(tmp_path):
    file = tmp_path / "a.parquet"
    numbers = pa.array([1, 2, 3], pa.int32())
    pq.write_table(pa.table({"width": numbers, "path": ["a", "b", "c"]}), file, write_statistics=False)
    content, read = file.read_bytes(), 0
    for place in range(len(content)):
        for change in (1, 9, 25, 64):
            damaged = bytearray(content)
            damaged[place] ^= change
            for columns in (["width"], None):
                try:
                    table = read_parquet(bytes(damaged), columns=columns)
                except (pa.ArrowException, OSError, UnicodeError):
                    continue
                rows = pq.read_metadata(pa.BufferReader(bytes(damaged))).num_rows
                assert {len(column) for column in table.columns} <= {rows}, (place, change)
                read += 1
    assert read > 100
