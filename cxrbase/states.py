"""Weights as a safetensors file and as a checksum."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from cxrbase.whole_files import written_whole


def write_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes tensors of any device and layout as a safetensors file, whole or not at all.

    Args:
        path: Of the file; its folder must be there.
        state: The tensors by name.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    # save_file would make a file that only its owner can read.
    with written_whole(path) as part:
        part.write_bytes(save(plain, metadata={"format": "pt"}))


def state_hash(state: Mapping[str, Tensor], *, head: bytes = b"") -> str:
    """SHA-256 of names, shapes, types and values, as hex, whichever file they came from and in whatever order.

    Args:
        state: The tensors by name.
        head: What else the checksum depends on.
    """
    digest = hashlib.sha256(head)
    for name, value in sorted(state.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        # A view as bytes needs a dimension, which a single number lacks.
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
