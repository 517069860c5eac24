"""The images of a feature table that are most like a new one."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrbase.data.parquet import read_parquet
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
        try:
            table = read_parquet(path, columns=["path", "cls", "patch_mean"])
            about = json.loads((table.schema.metadata or {})[b"cxrbase"])
            columns = [table[name] for name in ("cls", "patch_mean")]
            self.names: list[str] = table["path"].to_pylist()
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise ConfigError(f"{path} is no table of cxrbase embed: {error}") from error
        if not isinstance(about, dict) or about.get("weights_sha256") != weights_sha256:
            raise ConfigError(f"{path} was made with another encoder: make it again with cxrbase embed")
        rows = [row for row in range(len(table)) if columns[1][row].is_valid]
        if not rows:
            raise ConfigError(f"{path} holds no features: none of its images could be read")
        self.names = [self.names[row] for row in rows]
        kept = [
            np.array(column.take(rows).to_pylist(), np.float32) for column in columns if column.null_count < len(column)
        ]
        self._features = _unit(np.concatenate(kept, axis=1))

    def nearest(self, features: NDArray[np.float32], *, count: int = 5) -> list[tuple[str, float]]:
        """Names and cosine similarities of the nearest images, nearest first, of features (D,)."""
        similar = self._features @ _unit(features[None])[0]
        order = np.argsort(-similar, kind="stable")[:count]
        return [(self.names[row], float(similar[row])) for row in order]


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)
