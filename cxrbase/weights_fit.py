"""Adapts weights to other inputs: grey instead of RGB, another image size, another patch size."""

import math
from dataclasses import dataclass

import torch
from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cxrbase.errors import EncoderError

Encoder = VisionTransformer | Eva


def as_encoder(network: nn.Module, name: str) -> Encoder:
    """A network of timm as an encoder; EncoderError where it is of another kind."""
    if not isinstance(network, VisionTransformer | Eva):
        raise EncoderError(f"an encoder must be a Vision Transformer, {name!r} is a {type(network).__name__}")
    if isinstance(network, Eva):
        # The Vision Transformer says this of itself, and pooling asks.
        network.has_class_token = network.cls_token is not None  # type: ignore[assignment]
    return network


@dataclass(frozen=True)
class WeightReport:
    """What became of the keys of a file.

    Attributes:
        used: Keys of the network that were filled.
        skipped: Keys of the file that the network has no place for: heads, decoders, another network.
        changed: What was resampled or summed, in words.
    """

    used: tuple[str, ...]
    skipped: tuple[str, ...]
    changed: tuple[str, ...]

    def __str__(self) -> str:
        groups = sorted({key.split(".")[0] for key in self.skipped})
        skipped = f"{len(self.skipped)} skipped ({', '.join(groups)})" if groups else "none skipped"
        changed = f"; {'; '.join(self.changed)}" if self.changed else ""
        return f"{len(self.used)} keys used, {skipped}, none missing{changed}"


def fold_stem(
    weight: Tensor,
    bias: Tensor,
    *,
    stats: tuple[tuple[float, ...], tuple[float, ...]],
    to: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """One-channel stem that gives on a grey image what the original gives on it, repeated and normalised per channel.

    A patch embedding has no padding, so (x - mean_c) / std_c summed over channels is a linear map of x: exactly.

    Args:
        weight: (D, C, P, P).
        bias: (D,).
        stats: Mean and standard deviation per channel that the original expects, or one for all.
        to: Mean and standard deviation that the grey image will be normalised with.

    Returns:
        Weight (D, 1, P, P) and bias (D,), float32.
    """
    channels = weight.shape[1]
    mean, std = (torch.tensor(part, dtype=torch.float64).expand(channels) for part in stats)
    scaled = weight.double() / std[:, None, None]
    shift = (scaled * (to[0] - mean)[:, None, None]).sum((1, 2, 3))
    return (scaled.sum(1, keepdim=True) * to[1]).float(), (bias.double() + shift).float()


def position_grid(state: dict[str, Tensor], size: tuple[int, int] | None = None) -> tuple[int, int, int]:
    """Rows and columns of the grid of positions, and tokens before them that have a position of their own.

    Args:
        state: Tensors by timm's name.
        size: Height and width in pixels that a run says; None, or where the positions are others, takes a square.

    Raises:
        EncoderError: If the positions are those of neither.
    """
    count = state["pos_embed"].shape[1]
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    tokens = int("cls_token" in state) + registers
    if size is not None:
        height, width = patch_of(state)
        rows, columns = size[0] // height, size[1] // width
        if (prefix := count - rows * columns) in (0, tokens):
            return rows, columns, prefix
    for prefix in (0, tokens) if registers else (tokens, 0):
        side = math.isqrt(max(count - prefix, 0))
        if side and side * side == count - prefix:
            return side, side, prefix
    raise EncoderError(f"{count} positions are not those of a square image: load such an encoder by its encoder.json")


def heads_of(network: Encoder) -> int | None:
    """Attention heads of a block, if its blocks are of the usual kind."""
    heads: int | None = getattr(getattr(network.blocks[0], "attn", None), "num_heads", None)
    return heads


def patch_of(state: dict[str, Tensor]) -> tuple[int, int]:
    """Height and width of a patch in pixels."""
    height, width = state["patch_embed.proj.weight"].shape[-2:]
    return height, width


def fit_weights(
    network: Encoder,
    state: dict[str, Tensor],
    *,
    stats: tuple[tuple[float, ...], tuple[float, ...]],
    to: tuple[float, float],
    grid: tuple[int, int] | None = None,
    skipped: tuple[str, ...] = (),
) -> WeightReport:
    """Loads weights into a one-channel network, resampled to its patch and image size; every key must find its place.

    Args:
        network: A timm ViT or Eva with one input channel.
        state: Tensors by timm's name.
        stats: Mean and standard deviation per channel that the weights expect.
        to: Mean and standard deviation of the images that the network will get.
        grid: Rows and columns of positions in `state`; None for a square.
        skipped: Keys that were left out before, for the report.

    Raises:
        EncoderError: If a key is missing or left over, or a shape does not fit.
    """
    state, changed = dict(state), []
    weight = state["patch_embed.proj.weight"]
    bias = state.get("patch_embed.proj.bias", torch.zeros(len(weight)))
    size = tuple(network.patch_embed.patch_size)
    if weight.shape[1] != 1:
        changed.append(f"stem of {weight.shape[1]} channels summed to one")
    weight, bias = fold_stem(weight, bias, stats=stats, to=to)
    if tuple(weight.shape[-2:]) != size:
        changed.append(f"patches of {weight.shape[-1]} pixels resampled to {size[0]}")
        weight = resample_patch_embed(weight, list(size))
    state["patch_embed.proj.weight"] = weight
    if network.patch_embed.proj.bias is not None:
        state["patch_embed.proj.bias"] = bias
    elif bias.any():
        raise EncoderError(
            f"the network's patch embedding has no bias to take up another mean than that of the weights, {stats[0]}: "
            f"give images of that mean, not of {to[0]}"
        )
    if network.pos_embed is not None:
        changed += _fit_positions(network, state, grid)
    used = _load(network, state)
    return WeightReport(used, skipped, tuple(changed))


def _fit_positions(network: Encoder, state: dict[str, Tensor], grid: tuple[int, int] | None) -> list[str]:
    """Resamples the positions in `state` to the network's grid, where it differs, and says so."""
    if "pos_embed" not in state:
        raise EncoderError("the weights have no positions, and the network does: it was trained without them")
    old = grid or position_grid(state)[:2]
    new = network.patch_embed.grid_size
    prefix = state["pos_embed"].shape[1] - old[0] * old[1]
    if tuple(old) == tuple(new):
        return []
    state["pos_embed"] = resample_abs_pos_embed(
        state["pos_embed"].float(), new_size=list(new), old_size=list(old), num_prefix_tokens=prefix
    )
    return [f"positions of {old[0]} x {old[1]} patches resampled to {new[0]} x {new[1]}"]


def _load(network: Encoder, state: dict[str, Tensor]) -> tuple[str, ...]:
    wanted = network.state_dict()
    missing, left = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    odd = [
        f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & state.keys())
        if state[key].shape != wanted[key].shape
    ]
    if missing or left or odd:
        parts = {"missing": missing, "without a place": left, "of another shape": odd}
        said = "; ".join(f"{len(keys)} {what} ({', '.join(keys[:3])})" for what, keys in parts.items() if keys)
        raise EncoderError(
            f"the weights do not fit the network, {len(wanted) - len(missing)} of {len(wanted)} keys match: {said}"
        )
    network.load_state_dict({key: value.float() for key, value in state.items()})
    return tuple(wanted)
