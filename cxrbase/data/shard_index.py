"""What a stream needs of an index of packed images: four numbers a row in memory, every other column on disk."""

import hashlib
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cxrbase.data.manifest import LABEL_PREFIX
from cxrbase.data.manifest_splits import fill_splits
from cxrbase.data.parquet import read_parquet
from cxrbase.data.reading import CROPPED, Reading
from cxrbase.data.shards import FORMAT_VERSION, PACKED_FIELDS, metadata_of, reading_of
from cxrbase.errors import ManifestError, ShardError


class ShardIndex:
    """An index, with the face of a manifest.

    The four numbers are numpy arrays, which worker processes share with their parent however often they are read.

    Args:
        path: The local index.parquet of a pack.

    Attributes:
        shard_names: Files relative to the folder of the index, (S,).
        shard: Number of the shard of each row, (N,) int32.
        offset: First byte of the encoded image in its shard, (N,) int64.
        size: Bytes of the encoded image, (N,) int32.
        crc32: Of those bytes, (N,) uint32.
        metadata: How the images were made: side, codec, intensity convention.

    Raises:
        ShardError: The file is missing, damaged or of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: NDArray[np.int64] | None = None
        schema = self._schema()
        self.names = list(schema.names)
        self.metadata = metadata_of(schema)
        shards = self._column("shard", dictionary=True)
        self.shard_names: list[str] = shards.dictionary.to_pylist()
        self.shard = shards.indices.to_numpy(zero_copy_only=False).astype(np.int32)
        self.offset = self._numbers("offset").astype(np.int64)
        self.size = self._numbers("size").astype(np.int32)
        self.crc32 = self._numbers("crc32").astype(np.uint32)
        if not len(self.shard):
            raise ShardError(f"{self.path} has no rows: pack images into its folder with cxrbase pack")

    def take(self, names: Sequence[str]) -> "ShardIndex":
        """The index of some images, given by their paths, in that order; ShardError where one is not in it."""
        place = {path: row for row, path in enumerate(self.column("path").tolist())}
        if lacking := [name for name in names if name not in place]:
            raise ShardError(f"{self.path} has no image {lacking[0]}: the images were packed again, start anew")
        taken = copy(self)
        rows = taken._rows = np.array([place[name] for name in names], np.int64)
        taken.shard, taken.offset = self.shard[rows], self.offset[rows]
        taken.size, taken.crc32 = self.size[rows], self.crc32[rows]
        return taken

    def __len__(self) -> int:
        """Images."""
        return len(self.shard)

    @property
    def intensity(self) -> str:
        """What brightness means in the images."""
        said = str(self.metadata.get("intensity", "as packed"))
        # Packs of earlier versions say of their borders in the values alone.
        return f"{said}; {CROPPED}" if self.reading.crop_borders and CROPPED not in said else said

    @property
    def reading(self) -> Reading:
        """How the files were read that the images were packed from."""
        return reading_of(self.metadata, self.path)

    @property
    def called(self) -> dict[str, list[str]]:
        """Other names of the sources, such as those of their folders, which exclusion lists may have."""
        called = self.metadata.get("called")
        named = called.items() if isinstance(called, dict) else ()
        return {source: list(map(str, names)) for source, names in named if isinstance(names, list)}

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, without their prefix."""
        found = [f.name for f in self._schema() if f.name.startswith(LABEL_PREFIX) and pa.types.is_floating(f.type)]
        return tuple(name.removeprefix(LABEL_PREFIX) for name in found)

    def column(self, name: str) -> NDArray[Any]:
        """One column, read from disk: float32 for age and labels, otherwise objects of type str."""
        if name not in self.names:
            raise ManifestError(f"{self.path} has no column {name}; its columns are {', '.join(self.names)}")
        return np.asarray(self._column(name).to_numpy(zero_copy_only=False))

    def coded(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        """One text column as numbers and what they stand for; "" throughout where the index lacks it."""
        if name not in self.names:
            return np.zeros(len(self), np.int32), [""]
        column = self._column(name, dictionary=True)
        values = ["" if value is None else str(value) for value in column.dictionary.to_pylist()]
        codes = column.indices.fill_null(len(values)).to_numpy(zero_copy_only=False).astype(np.int32)
        return codes, [*values, ""]

    def label_matrix(self) -> NDArray[np.float32]:
        """Labels, (N, number of labels): 1 present, 0 absent, NaN unknown."""
        columns = [self.column(LABEL_PREFIX + name).astype(np.float32) for name in self.labels]
        return np.stack(columns, axis=1) if columns else np.zeros((len(self), 0), np.float32)

    def patients(self) -> NDArray[Any]:
        """Patient of each image, (N,) of str, one person wherever ids are equal; a path stands in for a blank one."""
        patients = self.column("patient_id")
        return np.where(patients == "", self.column("path"), patients)

    def patient_codes(self) -> NDArray[np.int32]:
        """Patient of each image as a number, (N,); an image without patient_id is a patient of its own."""
        patient, names = self.coded("patient_id")
        blank = np.array([name == "" for name in names])[patient]
        key = patient.astype(np.int64)
        key[blank] = -1 - np.arange(int(blank.sum()))
        return np.asarray(np.unique(key, return_inverse=True)[1], np.int32)

    def splits(self) -> NDArray[Any]:
        """Split of each image, (N,) of str; what a source lacks is dealt by patient, see `fill_splits`."""
        codes, names = self.coded("split")
        return fill_splits(self, np.array(names, object)[codes], packed=True)

    def images_hash(self, rows: NDArray[np.int64]) -> str:
        """SHA-256 that tells whether some rows hold the same images, as hex."""
        digest = hashlib.sha256("\n".join(self.shard_names).encode())
        for numbers in (self.shard, self.offset, self.size, self.crc32):
            digest.update(np.ascontiguousarray(numbers[rows]).tobytes())
        return digest.hexdigest()

    def key(self, row: int) -> str:
        """Path of one image in the index, for messages."""
        return str(self._column("path")[row].as_py())

    def _schema(self) -> pa.Schema:
        try:
            schema = pq.read_schema(self.path)
        except FileNotFoundError as error:
            raise ShardError(f"there is no {self.path}: pack images with cxrbase pack, and let it finish") from error
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise ShardError(f"cannot read {self.path} ({' '.join(str(error).split())}): pack it again") from error
        if (version := metadata_of(schema).get("version")) != FORMAT_VERSION:
            raise ShardError(f"{self.path} has format {version}, this version reads {FORMAT_VERSION}")
        for field in PACKED_FIELDS:
            if schema.names.count(field.name) != 1 or schema.field(field.name).type != field.type:
                raise ShardError(f"{self.path} has no column {field.name} of {field.type}: pack the images again")
        return schema

    def _column(self, name: str, *, dictionary: bool = False) -> Any:
        try:
            column = read_parquet(self.path, columns=[name], dictionaries=dictionary)[name]
            if dictionary:
                whole = pa.types.is_dictionary(column.type)
                column = column.unify_dictionaries() if whole else column.dictionary_encode()
            column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
            # Parquet pages carry no checksum; this finds text that is none.
            column.validate(full=True)
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise ShardError(f"cannot read {self.path} ({' '.join(str(error).split())}): pack it again") from error
        return column if self._rows is None else column.take(pa.array(self._rows))

    def _numbers(self, name: str) -> NDArray[Any]:
        numbers = self._column(name)
        values = numbers.to_numpy(zero_copy_only=False)
        if numbers.null_count or (values < 0).any() or (name != "offset" and (values > 2**32 - 1).any()):
            raise ShardError(f"{self.path} has an impossible {name}: pack the images again")
        return np.asarray(values)
