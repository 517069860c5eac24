"""Reads Vision Transformer weights of other projects and maps them to timm's names, without unpickling."""

import argparse
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cxrbase.errors import EncoderError
from cxrbase.weights_checks import Stats, checked_heads, checked_stats, not_finite

IMAGENET: Stats = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # timm.data.IMAGENET_DEFAULT_MEAN
CLIP: Stats = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # EVA-02
NIH: Stats = ((0.506,), (0.252,))  # Medical MAE, https://github.com/lambert-x/medical_mae
EVA_X: Stats = ((0.49185243,), (0.28509309,))  # https://github.com/hustvl/EVA-X, classification/utils/datasets.py

# What torch.load raises on bytes that are not its own.
_DAMAGED: tuple[type[Exception], ...] = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(OverflowError, MemoryError, struct.error, SafetensorError),
)
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")
_WRAPPERS = ("teacher", "model_ema", "model", "state_dict", "module", "student")
_STEM = re.compile(r"^(.*?)(patch_embed\.proj\.weight|embeddings\.patch_embeddings\.projection\.weight)$")
_ENCODER = re.compile(r"^(cls_token|reg_token|pos_embed|patch_embed\.|blocks\.|norm\.|fc_norm\.)")
_REFUSED = {
    "dist_token": "DeiT's distillation token",
    "storage_tokens": "DINOv3's registers and rotary embedding",
    "relative_position": "BEiT's relative position bias",
    "norm_pre.": "CLIP's norm before the blocks",
    "attn.q_norm": "a norm on queries and keys",
    ".attns.": "attention layers side by side in a block",
}
_HUGGING_FACE = [
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
]
_AUTHORS = [
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2 keeps its blocks in chunks
    (r"\.gamma_([12])$", r".ls\1.gamma"),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
    (r"\.attn\.inner_attn_ln\.", ".attn.norm."),
]


@dataclass(frozen=True)
class Checkpoint:
    """Weights of one Vision Transformer under timm's names.

    Attributes:
        path: Where they come from.
        family: Whose format it was.
        state: Tensors of the encoder, by timm's name.
        skipped: Keys of the file that are no part of an encoder, or of another network in it.
        stats: Mean and standard deviation per channel, in [0, 1], that the network was trained with.
        known: Whether the file or its neighbours say so, or it is what the format's authors use.
        heads: Attention heads, where a config.json beside the file, or the run whose checkpoint it is, says them.
        image_size: Height and width in pixels that such a run says; None where nothing says them.
        reading: How that run read its images, as its settings are called; empty where nothing says it.
    """

    path: Path
    family: str
    state: dict[str, Tensor]
    skipped: tuple[str, ...]
    stats: Stats
    known: bool
    heads: int | None
    image_size: tuple[int, int] | None
    reading: dict[str, Any]


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads weights in the format of timm, MAE, DINO, DINOv2, Medical MAE, EVA-X, or Hugging Face's ViT and Dinov2.

    Args:
        path: A .safetensors, .pth, .pt, .bin, .ckpt or .tar file, or a folder with model.safetensors or
            pytorch_model.bin.

    Raises:
        EncoderError: If the file cannot be read, holds objects other than tensors, or no Vision Transformer, if its
            weights are not finite, or if what it or a file beside it says of heads, mean or std cannot be.
    """
    path = _file(path)
    content = _read(path)
    found = _unwrap(content)
    tensors = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    prefix = _prefix(tensors, path)
    inner = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    other = [key for key in tensors if not key.startswith(prefix)]
    _refuse(inner, path)
    family = _family(content, tensors, inner)
    state = _rename(inner, path)
    kept = {key: value for key, value in state.items() if _ENCODER.match(key)}
    if said := not_finite(kept):
        raise EncoderError(f"{path} is no encoder: {said}")
    stats, known = _stats(path, content, family, kept)
    skipped = tuple(sorted(other + [key for key in state if key not in kept]))
    asked = _neighbour(path, "config.json").get("num_attention_heads") or _heads_of_run(content)
    heads = checked_heads(asked, width=len(kept["patch_embed.proj.weight"]), where=path)
    return Checkpoint(path, family, kept, skipped, stats, known, heads, _size_of_run(content), _reading_of_run(content))


def _heads_of_run(content: dict[str, Any]) -> Any:
    """Attention heads in a checkpoint of `cxrbase fit`: weights have the same shapes with any number of them."""
    settings = content.get("hyper_parameters")
    if not (isinstance(settings, dict) and isinstance(name := settings.get("backbone"), str)):
        return None
    options = settings.get("backbone_options") or {}
    if not isinstance(options, dict):
        raise EncoderError(f"backbone_options of the run must be settings by name, got {str(options)[:80]!r}")
    if asked := options.get("num_heads"):
        return asked
    if not timm.is_model(name):  # lest a name in a file makes timm look on a server
        raise EncoderError(f"timm knows no network {name!r}, the backbone of its run")
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False)
    if not isinstance(network, VisionTransformer):
        raise EncoderError(f"the backbone of the run must be a Vision Transformer, {name!r} is none")
    block: Any = network.blocks[0]
    return int(block.attn.num_heads)


def _size_of_run(content: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width in a checkpoint of `cxrbase fit`: weights have the same shapes for other grids of patches."""
    settings = content.get("hyper_parameters")
    size = settings.get("image_size") if isinstance(settings, dict) else None
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(side, int) for side in size):
        return size[0], size[1]
    return None


def _reading_of_run(content: dict[str, Any]) -> dict[str, Any]:
    """How images were read for a checkpoint of `cxrbase fit`; of another file, or an early one, nothing."""
    said = content.get("normalised")
    return {name: said[name] for name in ("window", "crop_borders") if name in said} if isinstance(said, dict) else {}


def _file(path: Path) -> Path:
    if path.is_dir():
        held = [path / name for name in _IN_FOLDER if (path / name).is_file()]
        if not held:
            lacking = " nor ".join(("encoder.json", *_IN_FOLDER))
            raise EncoderError(f"no encoder in folder {path}: it has neither {lacking}")
        return held[0]
    if not path.is_file():
        raise EncoderError(f"no weights at {path}: give a file, a run folder, or timm:<name> for an untrained network")
    if path.suffix not in SUFFIXES:
        raise EncoderError(f"{path} is not a weight file by its name: it should end in {', '.join(SUFFIXES)}")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        # The settings that MAE and DINO save beside their weights are a Namespace, a plain record.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise EncoderError(
            f"{path} holds Python objects beside its tensors, and loading those can run code: save its state dict as "
            f"safetensors where you trust it ({' '.join(str(error).split())[:120]})"
        ) from error
    except _DAMAGED as error:
        raise EncoderError(f"{path} cannot be read as weights: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise EncoderError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _unwrap(content: dict[str, Any]) -> dict[str, Any]:
    """The dictionary of tensors inside a training checkpoint; the teacher's where there are two networks."""
    while True:
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            return content
        content = inner


def _prefix(tensors: dict[str, Tensor], path: Path) -> str:
    """What stands before the encoder's names; a teacher's goes before its student's."""
    prefixes = [match.group(1) for key in tensors if (match := _STEM.match(key))]
    if not prefixes:
        some = ", ".join(list(tensors)[:4]) or "no tensor"
        raise EncoderError(f"no Vision Transformer in {path}: it has no patch_embed.proj.weight, but {some}")
    return min(prefixes, key=lambda prefix: ("teacher" not in prefix, len(prefix)))


def _refuse(inner: dict[str, Tensor], path: Path) -> None:
    for part, name in _REFUSED.items():
        if any(part in key for key in inner):
            raise EncoderError(
                f"{path} has {name}, which no encoder here has: take weights of a plain Vision Transformer, with one "
                "class token or none and learnt positions, such as those of MAE, DINO or DINOv2"
            )


def _family(content: dict[str, Any], tensors: dict[str, Tensor], inner: dict[str, Tensor]) -> str:
    options = vars(content["args"]) if isinstance(content.get("args"), argparse.Namespace) else {}
    tests: list[tuple[str, Callable[[str], bool]]] = [
        ("Hugging Face Dinov2", lambda key: key.endswith("layer_scale1.lambda1")),
        ("Hugging Face ViT", lambda key: key == "embeddings.cls_token"),
        ("EVA-02", lambda key: ".attn.q_bias" in key or ".attn.q_proj." in key),
        ("MAE", lambda key: key.startswith("decoder_embed.")),
        ("DINOv2", lambda key: key in ("mask_token", "register_tokens")),
    ]
    family = next((name for name, test in tests if any(map(test, inner))), "timm")
    if family == "MAE" and "datasets_names" in options:
        return "Medical MAE"
    if family == "EVA-02" and inner["patch_embed.proj.weight"].shape[-1] == 16:
        return "EVA-X"
    return "DINO" if family == "timm" and any("head.mlp." in key for key in tensors) else family


def _rename(inner: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    rules = _HUGGING_FACE if "embeddings.cls_token" in inner else _AUTHORS
    state: dict[str, Tensor] = {}
    for key, value in inner.items():
        for pattern, name in rules:
            key = re.sub(pattern, name, key)
        state[key] = value
    for key in [key for key in state if key.endswith((".attn.query.weight", ".attn.query.bias"))]:
        parts = [state.pop(key.replace(".query.", f".{part}.")) for part in ("query", "key", "value")]
        state[key.replace(".query.", ".qkv.")] = torch.cat(parts)
    if any(".attn.q_proj." in key for key in state):
        state = {re.sub(r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias", key): value for key, value in state.items()}
    if "register_tokens" in state:
        # DINOv2 adds a position to the class token only; timm keeps it inside the token.
        state["reg_token"], position = state.pop("register_tokens"), state["pos_embed"]
        state["cls_token"], state["pos_embed"] = state["cls_token"] + position[:, :1], position[:, 1:]
    lacking = {"pos_embed", "patch_embed.proj.weight"} - state.keys()
    if lacking or not any(key.startswith("blocks.") for key in state):
        raise EncoderError(f"{path} is not a Vision Transformer with absolute positions: it lacks {sorted(lacking)}")
    return state


def _stats(path: Path, content: dict[str, Any], family: str, state: dict[str, Tensor]) -> tuple[Stats, bool]:
    channels = state["patch_embed.proj.weight"].shape[1]
    if isinstance(ours := content.get("normalised"), dict):  # a checkpoint of `cxrbase fit`
        return checked_stats([ours.get("mean")], [ours.get("std")], channels=1, where=path), True
    beside = _neighbour(path, "preprocessor_config.json")
    if "image_mean" in beside and "image_std" in beside:
        where = path.with_name("preprocessor_config.json")
        return checked_stats(beside["image_mean"], beside["image_std"], channels=channels, where=where), True
    if family in ("Medical MAE", "EVA-X"):
        return (NIH if family == "Medical MAE" else EVA_X), True
    if family == "EVA-02":
        return CLIP, True
    known = family in ("MAE", "DINO", "DINOv2")
    return (IMAGENET if channels == 3 else NIH), known


def _neighbour(path: Path, name: str) -> dict[str, Any]:
    beside = path.with_name(name)
    if not beside.is_file():
        return {}
    try:
        content = json.loads(beside.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise EncoderError(f"{beside} is not JSON: {error}") from error
    return content if isinstance(content, dict) else {}
