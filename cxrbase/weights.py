"""Loads an encoder of any supported project by path or name: its network for grey images, and its input format."""

import logging
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from cxrbase.backbones import load_encoder, read_card
from cxrbase.data.decode import INTENSITY_CONVENTION
from cxrbase.data.reading import Reading
from cxrbase.errors import EncoderError
from cxrbase.sizes import Size, plain
from cxrbase.weights_checks import Stats
from cxrbase.weights_fit import Encoder, as_encoder, fit_weights, heads_of, patch_of, position_grid
from cxrbase.weights_formats import NIH, Checkpoint, read_checkpoint

logger = logging.getLogger(__name__)

# Widths whose heads are not 64 wide: ViT-H and -g (https://arxiv.org/abs/2106.04560).
_HEADS = {1280: 16, 1408: 16}


def load_any_encoder(
    name_or_path: str,
    *,
    image_size: Size | None = None,
    patch_size: int | None = None,
    mean: float | None = None,
    std: float | None = None,
    seed: int = 0,
) -> tuple[Encoder, dict[str, Any]]:
    """Loads an encoder for one-channel images from a run folder, a weight file or a timm name; nothing is downloaded.

    An RGB stem becomes a grey one that gives the same result on the image repeated three times, per-channel mean and
    standard deviation included, so features are those of the original network. EVA-X comes as a timm `Eva`, from which
    pretraining cannot start.

    Args:
        name_or_path: One of: a run folder, its encoder.safetensors or encoder.json; a .safetensors, .pth, .pt, .bin,
            .ckpt or .tar file of timm, MAE, DINO, DINOv2, Medical MAE, EVA-X or Hugging Face's ViT and Dinov2
            (RAD-DINO); a folder with model.safetensors or pytorch_model.bin; `timm:<name>`, untrained;
            `timm:<name>=<file>`, where heads or statistics are to be those of a network that timm knows.
        image_size: Side, or height and width, of the images in pixels; None takes what the encoder was trained at.
        patch_size: Side of a patch in pixels; None takes the encoder's own.
        mean: Mean, in [0, 1], that the original network expects, where its file does not say; None takes what its
            authors use.
        std: The same for the standard deviation.
        seed: Seed of the weights of `timm:<name>`.

    Returns:
        The network in evaluation mode, and its card: timm_name, timm_args, image_size, mean, std, intensity, window,
        crop_borders, source, format, and for a file heads_known, whether its heads are more than a guess from its
        width. Images are to be read by `Reading.of` it and given as (x / 255 - mean) / std.

    Raises:
        EncoderError: If there is no such file or name, or the weights do not fit, in whole or in part.
    """
    given = None if mean is None and std is None else _given(mean, std)
    if name_or_path.startswith("timm:"):
        name, _, file = name_or_path.removeprefix("timm:").partition("=")
        if file:
            return _load(read_checkpoint(Path(file)), image_size, patch_size, given, name=name)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return _untrained(name, image_size, patch_size, given)
    path = Path(name_or_path)
    if _is_ours(path):
        return _ours(path, image_size, patch_size)
    if not path.exists() and timm.is_model(name_or_path):
        raise EncoderError(f"no weights at {path}: write timm:{name_or_path} for that network, untrained")
    return _load(read_checkpoint(path), image_size, patch_size, given)


def short_name(place: str) -> str:
    """What an encoder is called where it is given no name: its run folder's, its file's or that of timm."""
    path = Path(place).absolute()
    return path.parent.name if path.name in ("encoder.safetensors", "encoder.json") else path.name


def initialise(vit: VisionTransformer, name_or_path: str, *, mean: float, std: float) -> None:
    """Fills a one-channel ViT with the weights of another encoder, to go on training from them.

    Args:
        vit: The network, of the wanted image and patch size.
        name_or_path: As for `load_any_encoder`.
        mean: Mean that the images will be normalised with.
        std: Standard deviation that they will be normalised with.

    Raises:
        EncoderError: If the weights are of another architecture, or there are none.
    """
    # Without weights, it is what differs from seed to seed of a training.
    source, card = load_any_encoder(name_or_path, seed=torch.initial_seed())
    if not isinstance(source, VisionTransformer):
        raise EncoderError(
            f"pretraining cannot start from {name_or_path}, which is of the EVA kind (timm's {type(source).__name__}): "
            "objectives train timm's VisionTransformer alone; score it with cxrbase evaluate, or fit it to a task with "
            "cxrbase fit --config experiments/task/<task>.yaml --encoder"
        )
    stats = ((float(card["mean"]),), (float(card["std"]),))
    rows, columns = source.patch_embed.grid_size
    report = fit_weights(vit, source.state_dict(), stats=stats, to=(mean, std), grid=(rows, columns))
    theirs, ours = heads_of(source), heads_of(vit)
    # Weights have the same shapes with any number of heads, and mean something else.
    if card.get("heads_known", True) and theirs != ours:
        raise EncoderError(
            f"{name_or_path} has {theirs} attention heads, the network to train has {ours}: set "
            f"--model.backbone_options.num_heads={theirs}"
        )
    logger.info("starting from %s: %s", name_or_path, report)


def _is_ours(path: Path) -> bool:
    card = (path / "encoder.safetensors" if path.is_dir() else path).with_suffix(".json")
    return (path.is_dir() or path.suffix in ("", ".json", ".safetensors")) and card.is_file()


def _ours(path: Path, image_size: Size | None, patch_size: int | None) -> tuple[Encoder, dict[str, Any]]:
    vit, card = load_encoder(path), read_card(path)
    size = image_size or plain(card["image_size"])
    arguments = card["timm_args"] | {"img_size": size, "dynamic_img_size": True}
    if patch_size is not None:
        arguments["patch_size"] = patch_size
    network = _create(card["timm_name"], arguments)
    stats = ((float(card["mean"]),), (float(card["std"]),))
    rows, columns = vit.patch_embed.grid_size
    fit_weights(network, vit.state_dict(), stats=stats, to=(stats[0][0], stats[1][0]), grid=(rows, columns))
    changes = {"timm_args": arguments, "image_size": plain(size), "source": str(path), "format": "cxrbase"}
    return network.eval(), {"intensity": INTENSITY_CONVENTION, **Reading.of(card).values(), **card, **changes}


def _untrained(
    name: str, image_size: Size | None, patch_size: int | None, given: Stats | None
) -> tuple[Encoder, dict[str, Any]]:
    arguments: dict[str, Any] = {"in_chans": 1, "num_classes": 0, "dynamic_img_size": True}
    arguments |= {"img_size": image_size} if image_size else {}
    arguments |= {"patch_size": patch_size} if patch_size else {}
    network = _create(name, arguments)
    height, width = network.patch_embed.img_size
    arguments["img_size"] = plain((height, width))
    return network.eval(), _card(name, arguments, _grey(given or NIH), f"timm:{name}", "untrained")


def _load(
    found: Checkpoint, image_size: Size | None, patch_size: int | None, given: Stats | None, *, name: str = ""
) -> tuple[Encoder, dict[str, Any]]:
    rows, columns, prefix = position_grid(found.state, found.image_size)
    patch = patch_of(found.state)
    arguments: dict[str, Any] = {"in_chans": 1, "num_classes": 0, "dynamic_img_size": True}
    trained_at = rows * patch[0], columns * patch[1]
    arguments |= {"img_size": plain(image_size or trained_at), "patch_size": patch_size or plain(patch)}
    heads_known = bool(name or found.heads)
    if name:
        stats, known = _stats_of(name), True
    else:
        name, shape = _architecture(found, rows, prefix)
        arguments |= shape
        stats, known = found.stats, found.known
    stats, known = (given, True) if given else (stats, known)
    network, to = _create(name, arguments), _grey(stats)
    report = fit_weights(network, found.state, stats=stats, to=to, grid=(rows, columns), skipped=found.skipped)
    logger.info("%s (%s as %s): %s", found.path, found.family, name, report)
    if not known:
        whose = "those of NIH's radiographs" if found.stats == NIH else "ImageNet's"
        logger.warning("%s does not say its mean and std; %s are taken: give mean and std if not", found.path, whose)
    card = _card(name, arguments, to, str(found.path), found.family)
    return network.eval(), card | Reading.of(found.reading).values() | {"heads_known": heads_known}


def _architecture(found: Checkpoint, rows: int, prefix: int) -> tuple[str, dict[str, Any]]:
    """The timm network that has these shapes."""
    state = found.state
    width = state["patch_embed.proj.weight"].shape[0]
    shape: dict[str, Any] = {
        "embed_dim": width,
        "depth": 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
        "num_heads": found.heads or _HEADS.get(width) or max(width // 64, 1),
        "class_token": "cls_token" in state,
        # Fine-tuned on the mean of its patches, as MAE's authors do, or not.
        "global_pool": "avg" if "fc_norm.weight" in state else ("token" if "cls_token" in state else "avg"),
    }
    if found.family in ("EVA-02", "EVA-X"):
        apart = any(".attn.q_proj." in key for key in state)
        inner = any(".attn.norm." in key for key in state)
        shape |= {"ref_feat_shape": [rows, rows], "scale_attn_inner": inner}
        return ("eva02_base_patch14_224" if apart else "eva02_small_patch14_224"), shape
    hidden, out = state["blocks.0.mlp.fc1.weight"].shape[0], state["blocks.0.mlp.fc2.weight"].shape[1]
    shape |= {"mlp_ratio": hidden / width, "qkv_bias": "blocks.0.attn.qkv.bias" in state}
    shape["reg_tokens"] = state["reg_token"].shape[1] if "reg_token" in state else 0
    shape["no_embed_class"] = prefix == 0 and (shape["class_token"] or shape["reg_tokens"] > 0)
    shape["init_values"] = 1e-5 if "blocks.0.ls1.gamma" in state else None
    if "norm.weight" in state and "cls_token" not in state:
        shape["fc_norm"] = False
    return ("vit_giant_patch14_dinov2" if hidden == 2 * out else "vit_small_patch16_224"), shape


def _create(name: str, arguments: dict[str, Any]) -> Encoder:
    try:
        network = timm.create_model(name, pretrained=False, **arguments)
    except (RuntimeError, TypeError, AssertionError, ValueError) as error:
        raise EncoderError(f"timm cannot make {name!r} with {arguments}: {error}") from error
    return as_encoder(network, name)


def _card(name: str, arguments: dict[str, Any], to: tuple[float, float], source: str, kind: str) -> dict[str, Any]:
    return {
        "timm_name": name,
        "timm_args": arguments,
        "image_size": arguments["img_size"],
        "mean": to[0],
        "std": to[1],
        "intensity": INTENSITY_CONVENTION,
        **Reading().values(),
        "source": source,
        "format": kind,
    }


def _stats_of(name: str) -> Stats:
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # of a tag that is none of the network's
        raise EncoderError(f"timm knows no network {name!r}: {error}") from error
    if config is None:
        raise EncoderError(f"timm knows no network {name!r}")
    return tuple(config.mean), tuple(config.std)


def _given(mean: float | None, std: float | None) -> Stats:
    if mean is None or std is None or std <= 0:
        raise EncoderError(f"give both mean and std, std above 0, got {mean} and {std}")
    return (mean,), (std,)


def _grey(stats: Stats) -> tuple[float, float]:
    """One mean and one standard deviation for a grey image; the stem takes up what is lost between the channels."""
    mean, std = stats
    return round(sum(mean) / len(mean), 8), round(sum(std) / len(std), 8)
