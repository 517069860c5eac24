"""Frozen features of the images of a task: computed once, kept on disk, and continued after an interruption."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cxrbase.data.centre import CentreViews
from cxrbase.data.dataset import ImageStore
from cxrbase.data.manifest import Manifest
from cxrbase.data.reading import Reading
from cxrbase.data.shard_store import ShardStore
from cxrbase.evaluation.features import extract_features
from cxrbase.evaluation.suite.scoring_code import features_code
from cxrbase.states import state_hash
from cxrbase.weights_fit import Encoder
from cxrbase.whole_files import written_whole

CHUNK = 1024  # images that a kill can cost


def encoder_hash(encoder: Encoder, card: dict[str, Any]) -> str:
    """SHA-256 of the weights and of how images are fed, as hex; the same for the same encoder in another file."""
    said, reading = [card["timm_name"], card["image_size"], card["mean"], card["std"]], Reading.of(card)
    # Without the defaults, so that encoders whose cards are silent keep their hash.
    said += [] if reading == Reading() else [str(reading)]
    return state_hash(encoder.state_dict(), head=json.dumps(said).encode())


def data_hash(manifest: Manifest, images: ImageStore) -> str:
    """SHA-256 of the names, sizes and times of the image files and how they are decoded, or of packed bytes, as hex."""
    if isinstance(images, ShardStore):
        return images.index.images_hash(images.rows)
    digest = hashlib.sha256(images.intensity.encode())
    for name, path in zip(manifest.column("path"), manifest.paths, strict=True):
        status = path.stat()
        digest.update(json.dumps([name, status.st_size, status.st_mtime_ns]).encode())
    return digest.hexdigest()


class FeatureStore:
    """Features of one encoder on the images of one manifest.

    Args:
        encoder: The network.
        card: Its image_size, mean, std and, where it has them, window and crop_borders.
        manifest: The images.
        images: Their pixels, row by row.
        folder: Where features are kept; one folder for each encoder, data set and code is made in it.
        device: Where the encoder runs.
    """

    def __init__(
        self,
        encoder: Encoder,
        card: dict[str, Any],
        *,
        manifest: Manifest,
        images: ImageStore,
        folder: Path,
        device: torch.device | str = "cpu",
    ) -> None:
        self.encoder, self.card, self.images, self.device = encoder, card, images, torch.device(device)
        self.encoder_hash, self.data_hash = encoder_hash(encoder, card), data_hash(manifest, images)
        self.folder = folder / f"{self.encoder_hash[:16]}-{self.data_hash[:16]}-{features_code()}"

    def features(self, rows: NDArray[np.int64], *, name: str) -> NDArray[np.float32]:
        """Features of some rows of the manifest, (N, D) float32; only those that are not there yet are computed.

        Args:
            rows: Rows of readable images, (N,).
            name: What the progress bar says.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        parts = []
        with tqdm(total=len(rows), desc=f"{name} features", unit="image", mininterval=1.0) as bar:
            for chunk in chunks:
                parts.append(self._chunk(chunk))
                bar.update(len(chunk))
        return np.concatenate(parts)

    def _chunk(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        path = self.folder / f"{hashlib.sha256(rows.tobytes()).hexdigest()[:16]}.npy"
        if path.is_file():
            kept: NDArray[np.float32] = np.load(path)
            return kept
        card, device = self.card, self.device
        views = CentreViews(
            self.images, rows, out=card["image_size"], mean=card["mean"], std=card["std"], device=device
        )
        found = extract_features(self.encoder, views, device=device, description="")
        # Under another name until complete, so that what a killed process leaves is not taken for features.
        try:
            with written_whole(path) as part, part.open("wb") as file:
                np.save(file, found)
        except FileNotFoundError:
            # Another process wrote the same features first, and cleared ours away with what is torn.
            if not path.is_file():
                raise
        finally:
            for other in self.folder.glob(f".{path.name}.*.part"):
                other.unlink(missing_ok=True)
        return found
