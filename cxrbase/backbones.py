"""The shared Vision Transformer: creates it, runs it on visible patches only, and writes and reads its files."""

import difflib
import json
import math
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cxrbase.data.reading import Reading
from cxrbase.errors import ConfigError, EncoderError
from cxrbase.sizes import Size, height_width
from cxrbase.states import write_state
from cxrbase.weights_checks import not_finite
from cxrbase.weights_fit import Encoder, as_encoder
from cxrbase.weights_formats import read_checkpoint
from cxrbase.whole_files import written_whole

ENCODER_FILE = "encoder.safetensors"
UNTRAINED = "untrained"  # the objective that encoder.json names for weights as they are before the first step

# Arguments of timm.create_model that read or fetch other weights.
_FOREIGN = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "weights_only"}
# Checked before the network is made, even without weights; other numbers may be at most 16,384.
_MOST = {"depth": 256, "img_size": 8192, "num_classes": 1_000_000}


def create_backbone(
    name: str, *, image_size: Size, drop_path: float = 0.0, options: dict[str, Any] | None = None
) -> VisionTransformer:
    """Creates a timm ViT for one-channel images with 2-D sin-cos position embedding, learnable.

    Args:
        name: A timm ViT name, such as vit_small_patch16_224.
        image_size: Side, or height and width, of the input in pixels; other sizes are taken too, the position embedding
            is resampled.
        drop_path: Stochastic depth rate of the last block, rising linearly from 0.
        options: Further arguments of the timm model, such as {"depth": 6}.

    Returns:
        The network, without a classifier.

    Raises:
        ConfigError: If timm does not know the name, or it is not a ViT, or the options do not fit.
    """
    arguments = {"in_chans": 1, "num_classes": 0, "img_size": image_size, **(options or {})}
    if ":" not in name and not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(module="vision_transformer"), n=1)
        raise ConfigError(f"timm has no backbone {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        vit = timm.create_model(name, dynamic_img_size=True, drop_path_rate=drop_path, **arguments)
    except (RuntimeError, TypeError, AssertionError, ValueError) as error:
        raise ConfigError(f"timm cannot make backbone {name!r} with {arguments}: {error}") from error
    if not isinstance(vit, VisionTransformer):
        raise ConfigError(f"backbone must be a timm VisionTransformer, {name!r} is a {type(vit).__name__}")
    if not len(vit.blocks):
        raise ConfigError(f"backbone_options must give {name!r} a depth of at least 1, got {options}")
    _init_position(vit)
    return vit


def encode_visible(vit: VisionTransformer, images: Tensor, keep: Tensor) -> Tensor:
    """Runs the ViT over the kept patches alone, so that masked ones cost nothing.

    Args:
        vit: The network.
        images: (B, C, H, W) float32.
        keep: Indices of the patches to keep, row by row, (B, K) int64.

    Returns:
        (B, P + K, D): the P prefix tokens, then the kept patches in the order of `keep`.
    """
    # timm offers no public way to drop chosen patches; `_pos_embed` is held to its meaning by a test.
    tokens = vit._pos_embed(vit.patch_embed(images))
    prefix = vit.num_prefix_tokens
    index = keep[:, :, None].expand(-1, -1, tokens.shape[-1])
    tokens = torch.cat([tokens[:, :prefix], tokens[:, prefix:].gather(1, index)], dim=1)
    normed: Tensor = vit.norm(vit.blocks(vit.norm_pre(tokens)))
    return normed


def save_encoder(vit: VisionTransformer, folder: Path, card: dict[str, Any]) -> Path:
    """Writes encoder.safetensors, a plain timm state dict, and encoder.json, what is needed to feed it.

    Args:
        vit: The network.
        folder: Where both go.
        card: At least timm_name, timm_args, image_size, mean, std; see `load_encoder`.

    Returns:
        Path of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / ENCODER_FILE
    write_state(weights, vit.state_dict())
    with written_whole(weights.with_suffix(".json")) as part:
        part.write_text(json.dumps(card, indent=2) + "\n")
    return weights


def read_card(path: Path) -> dict[str, Any]:
    """Reads encoder.json, given a run folder, the weights or the JSON itself.

    Raises:
        EncoderError: If it is missing or lacks what is needed.
    """
    if not path.exists() and not path.with_suffix(".json").exists():
        raise EncoderError(f"no encoder at {path}: give a run folder or its {ENCODER_FILE}")
    card_path = (path / ENCODER_FILE if path.is_dir() else path).with_suffix(".json")
    if not card_path.is_file():
        raise EncoderError(f"no encoder description at {card_path}: give a run folder or its {ENCODER_FILE}")
    try:
        card: dict[str, Any] = json.loads(card_path.read_text())
        lacking = {"timm_name", "timm_args", "image_size", "mean", "std"} - card.keys()
    except (ValueError, AttributeError, RecursionError) as error:
        raise EncoderError(f"{card_path} is not an encoder description: {error}") from error
    if lacking:
        raise EncoderError(f"{card_path} lacks {', '.join(sorted(lacking))}")
    return card


def load_encoder(path: str | Path) -> Encoder:
    """Loads an exported encoder, every key matched; mean, std and size stand in its timm `pretrained_cfg`.

    Args:
        path: A run folder, a folder of `cxrbase export`, or an encoder.safetensors or encoder.json.

    Returns:
        The network in evaluation mode.

    Raises:
        EncoderError: If a file is missing, damaged or does not fit its description, or its weights are not finite.
    """
    card = read_card(Path(path))
    weights = _weights(Path(path), card)
    try:
        check_description(card, weights)
        size = height_width(card["image_size"])
        overlay = {"input_size": (1, *size), "mean": (card["mean"],), "std": (card["std"],)}
        vit = timm.create_model(card["timm_name"], pretrained_cfg_overlay=overlay, **card["timm_args"])
        vit.load_state_dict(_read_state(weights))
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise EncoderError(f"{weights} cannot be loaded as {card['timm_name']}: {error}") from error
    if said := not_finite(vit.state_dict()):
        raise EncoderError(f"{weights} is no encoder: {said}")
    return as_encoder(vit, card["timm_name"]).eval()


def check_description(card: dict[str, Any], weights: Path) -> None:
    """Refuses a description that would fetch something, is of a far larger network, or knows no way to read images.

    Args:
        card: Holds timm_name, timm_args, image_size, mean and std, and perhaps window and crop_borders.
        weights: The file that they describe.

    Raises:
        EncoderError: It does.
        OSError: There is no such file.
    """
    name, arguments = card["timm_name"], card["timm_args"]
    _check_input(card)
    try:
        Reading.of(card)
    except ConfigError as error:
        raise EncoderError(f"the description of {weights} has no known way to read images: {error}") from error
    # timm takes hf-hub:... and local-dir:... as names, too.
    if not isinstance(name, str) or not timm.is_model(name.split(".")[0]) or not isinstance(arguments, dict):
        raise EncoderError(f"timm_name must be a network of timm and timm_args its options, got {str(name)[:80]!r}")
    if foreign := _FOREIGN & arguments.keys():
        raise EncoderError(f"timm_args may not hold {', '.join(sorted(foreign))}: they would load other files")
    if large := [key for key, value in arguments.items() if isinstance(value, int) and value > _MOST.get(key, 16_384)]:
        raise EncoderError(f"timm_args has {large[0]} = {arguments[large[0]]}, larger than any encoder's")
    with torch.device("meta"):
        parameters = sum(p.numel() for p in timm.create_model(name, **arguments).parameters())
    # No format stores more than two parameters in a byte.
    if parameters > 2 * weights.stat().st_size:
        raise EncoderError(f"{weights} cannot be loaded as {name}: it is too small for {parameters:,} parameters")


def _check_input(card: dict[str, Any]) -> None:
    size = card["image_size"]
    sides = size if isinstance(size, list | tuple) and len(size) == 2 else [size]
    if not all(type(side) is int and 0 < side <= _MOST["img_size"] for side in sides):
        raise EncoderError(
            f"image_size must be pixels of a side, or of height and width, at most {_MOST['img_size']}, got "
            f"{str(size)[:80]!r}"
        )
    for name, above in (("mean", -math.inf), ("std", 0.0)):
        value = card[name]
        if not (isinstance(value, int | float) and math.isfinite(value) and value > above):
            raise EncoderError(f"{name} must be a number{' above 0' if name == 'std' else ''}, got {str(value)[:80]!r}")


def _weights(path: Path, card: dict[str, Any]) -> Path:
    """The file of the weights: beside the description under its name, or as an export's description says."""
    name = card.get("weights", ENCODER_FILE)
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
        raise EncoderError(f"weights must be the name of a .safetensors file beside the description, got {name!r}")
    if path.is_dir() or "weights" in card:
        return (path if path.is_dir() else path.parent) / name
    return path.with_suffix(".safetensors")


def _read_state(weights: Path) -> dict[str, Tensor]:
    """The state dict under timm's names, whichever of timm and transformers wrote it."""
    state: dict[str, Tensor] = load_file(weights)
    return read_checkpoint(weights).state if "embeddings.cls_token" in state else state


def _init_position(vit: VisionTransformer) -> None:
    """Starts the position embedding at fixed 2-D sines (MAE, https://arxiv.org/abs/2111.06377); prefix tokens at 0."""
    if vit.pos_embed is None:
        return
    grid = list(vit.patch_embed.grid_size)
    table = build_sincos2d_pos_embed(grid, dim=vit.embed_dim)
    with torch.no_grad():
        vit.pos_embed.zero_()
        vit.pos_embed[0, -table.shape[0] :] = table
