"""Finds the images in a feature table that are most like a new one."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cxrbase.data.parquet import read_row_groups
from cxrbase.errors import ConfigError


class Neighbours:
    """Features of a table of `cxrbase embed`, for cosine similarity.

    Args:
        path: The table.
        weights_sha256: Of the encoder that will be asked with; another encoder's features cannot be compared.

    Raises:
        ConfigError: It is no such table, is of another encoder, or holds no features.
    """

    def __init__(self, path: str | Path, *, weights_sha256: str) -> None:
        self.names: list[str] = []
        # One after the other, because together they would be in memory twice.
        self._blocks: list[NDArray[np.float32]] = []
        try:
            about = json.loads((pq.read_schema(path).metadata or {})[b"cxrbase"])
            if not isinstance(about, dict) or about.get("weights_sha256") != weights_sha256:
                raise ConfigError(f"{path} was made with another encoder: make it again with cxrbase embed")
            for table in read_row_groups(path, columns=["path", "cls", "patch_mean"]):
                self._add(table)
        except KeyError as error:
            raise ConfigError(
                f"{path} is not a table written by cxrbase embed, whose name is missing in its metadata"
            ) from error
        except (OSError, pa.ArrowException, ValueError) as error:
            raise ConfigError(f"{path} is not a table written by cxrbase embed: {error}") from error
        if not self.names:
            raise ConfigError(f"{path} holds no features: none of its images could be read")

    def _add(self, table: pa.Table) -> None:
        there = pc.is_valid(table["patch_mean"])
        columns = [table[name].filter(there) for name in ("cls", "patch_mean")]
        # A network without a class token leaves that column empty.
        kept = [_array(column) for column in columns if column.null_count < len(column)]
        if not kept:
            return
        block = np.concatenate(kept, axis=1)
        if self._blocks and block.shape[1] != self._blocks[0].shape[1]:
            raise ValueError("its features are not of one length")
        self.names += table["path"].filter(there).to_pylist()
        self._blocks.append(_unit(block))

    def nearest(self, features: NDArray[np.float32], *, count: int = 5) -> list[tuple[str, float]]:
        """Names and cosine similarities of the nearest images, nearest first, of features (D,)."""
        asked = _unit(features[None])[0]
        similar = np.concatenate([block @ asked for block in self._blocks])
        order = np.argsort(-similar, kind="stable")[:count]
        return [(self.names[row], float(similar[row])) for row in order]


def _array(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Lists of equal length, (N, D), without a Python object for each number; ValueError where they are none."""
    lists = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
    if not lists or not pa.types.is_floating(column.type.value_type):
        raise ValueError(f"its features are {column.type}, not lists of numbers")
    lengths = pc.unique(pc.list_value_length(column))
    if len(lengths) != 1 or not lengths[0].as_py():
        raise ValueError("its features are not of one length")
    numbers = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(numbers, dtype=np.float32).reshape(len(column), -1)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)
