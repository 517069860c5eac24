"""Runs a frozen encoder over batches of images and collects one feature vector per image."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from cxrbase.weights_fit import Encoder


def extract_features(
    encoder: Encoder,
    batches: Iterable[Tensor],
    *,
    device: torch.device | str,
    total: int | None = None,
    description: str = "features",
) -> npt.NDArray[np.float32]:
    """Features of every image, in the order of the batches, in float32 whatever the autocast around it.

    Args:
        encoder: A timm ViT, which is moved to the device; whether it trains is restored afterwards.
        batches: Tensors (B, C, H, W), normalised as the encoder was trained.
        device: Where it runs.
        total: Number of batches, for the progress bar.
        description: What the progress bar says; "" for no bar.

    Returns:
        (N, 2 * D): the CLS token, then the mean of the patch tokens; (N, D), the mean alone, without a CLS token.
        No batches give no rows, still of that width, so that an empty split needs no special case.
    """
    device = torch.device(device)
    encoder.to(device)
    width = encoder.embed_dim * (2 if encoder.has_class_token else 1)
    rows = [np.empty((0, width), dtype=np.float32)]
    with _evaluating(encoder), torch.inference_mode(), torch.autocast(device.type, enabled=False):
        for images in tqdm(batches, total=total, desc=description, leave=False, disable=None if description else True):
            tokens = encoder.forward_features(images.to(device, torch.float32, non_blocking=True))
            rows.append(pool_tokens(encoder, tokens).cpu().numpy())
    return np.concatenate(rows)


def pool_tokens(encoder: Encoder, tokens: Tensor) -> Tensor:
    """Joins the CLS token and the mean of the patch tokens; register tokens are left out.

    Args:
        encoder: The ViT that made the tokens.
        tokens: (B, P + L, D) with its P prefix tokens first, the CLS token before any registers.

    Returns:
        (B, 2 * D), or (B, D) where the encoder has no CLS token.
    """
    mean = tokens[:, encoder.num_prefix_tokens :].mean(1)
    return torch.cat([tokens[:, 0], mean], 1) if encoder.has_class_token else mean


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    # Each part keeps its own flag: `module.train()` afterwards would wake parts that were frozen on purpose.
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
