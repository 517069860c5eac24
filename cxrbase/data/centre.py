"""The view that encoders are judged on, of any rows of any store."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrbase.data.dataset import ImageStore, StreamDataset
from cxrbase.sizes import Size
from cxrbase.views import centre_view


def read_canvases(store: ImageStore, rows: NDArray[np.int64], *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Canvases of some rows, (B, 1, C, C) uint8, and the height and width that each image takes of its own, (B, 2)."""
    images = StreamDataset(store)
    items = [images[int(row)] for row in rows]
    canvases, sizes = torch.stack([item[0] for item in items]), torch.stack([item[1] for item in items])
    return canvases.to(device), sizes.to(device)


def centre_batches(
    store: ImageStore,
    rows: NDArray[np.int64],
    *,
    out: Size,
    mean: float,
    std: float,
    device: torch.device,
    batch_size: int = 64,
) -> Iterator[Tensor]:
    """Centre views of some rows, in order.

    Args:
        store: Where the images are.
        rows: Rows of its manifest, (N,).
        out: Side, or height and width, of a view in pixels.
        mean: Subtracted after scaling to [0, 1].
        std: Divided by afterwards.
        device: Where views are made.
        batch_size: Images at a time.

    Yields:
        (B, 1, H, W) normalised.

    Raises:
        DecodeError: An image cannot be read; CorruptError where it is packed.
    """
    for start in range(0, len(rows), batch_size):
        canvases, sizes = read_canvases(store, rows[start : start + batch_size], device=device)
        yield centre_view(canvases, sizes, out=out, mean=mean, std=std)
