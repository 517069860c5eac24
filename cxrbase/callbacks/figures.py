"""Draws the figures of a run: reconstructions, attention, view pairs, patch features."""

import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from PIL import Image
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cxrbase.data.datamodule import CXRDataModule
from cxrbase.objectives import MAE, Objective
from cxrbase.pretraining import Pretraining
from cxrbase.views import Views

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


class Figures(Callback):
    """Writes figures/*.png at the end of a run, and the same pictures to TensorBoard.

    Args:
        images: Images per figure.
        enabled: Whether figures are drawn.
    """

    def __init__(self, images: int = 6, enabled: bool = True) -> None:
        if images < 1:
            raise ValueError(f"images must be at least 1, got {images}")
        self.images, self.enabled = images, enabled

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws all figures that the objective has."""
        if not self.enabled:
            return
        if importlib.util.find_spec("matplotlib") is None:
            logger.warning("no figures: matplotlib is not installed")
            return
        assert isinstance(pl_module, Pretraining)
        # On all ranks, as weights that are spread over devices are gathered here.
        objective = pl_module.whole()
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        data: CXRDataModule = trainer.datamodule  # type: ignore[attr-defined]
        for name, figure in draw_figures(data, objective, self.images, trainer.strategy.root_device):
            figure.savefig(folder / f"{name}.png", dpi=120)
            # Of the file, as drawing is what takes time.
            with Image.open(folder / f"{name}.png") as opened:
                picture = np.asarray(opened.convert("RGB"))
            for log in trainer.loggers:
                if isinstance(log, TensorBoardLogger):
                    log.experiment.add_image(name, picture, trainer.global_step, dataformats="HWC")


def draw_figures(
    data: CXRDataModule, objective: Objective, count: int, device: torch.device
) -> Iterator[tuple[str, "Figure"]]:
    """Yields each figure by name.

    Args:
        data: Where the images come from.
        objective: A trained objective.
        count: Images per figure.
        device: Where the networks are.
    """
    canvases = data.centre.canvases(data.centre.few(data.store.rows, count))
    if not len(canvases.rows):
        logger.warning("no figures: none of the images that they would show can be read")
        return
    images = torch.cat(list(data.centre.views(canvases, device=device)))
    shown = [data.to_grey(image) for image in images]
    if isinstance(objective, MAE):
        seen, filled = objective.reconstruct(images)
        columns = {
            "original": shown,
            "masked": [data.to_grey(i) for i in seen],
            "reconstructed": [data.to_grey(i) for i in filled],
        }
        title = "MAE: hidden patches grey, then as predicted"
        if objective.norm_pix:
            title += "\n(mean and spread of each hidden patch are the true ones)"
        yield "reconstruction", _grid(columns, title)
    if objective.num_global_views > 1:
        views = data.random_views(canvases, device=device)
        yield "views", _grid(_view_columns(data, views), "Random views of the same images")
    if isinstance(getattr(objective.encoder.blocks[-1], "attn", None), Attention):
        yield "attention", _attention(objective.encoder, images, shown)
    else:
        logger.warning("no figure of attention: it cannot be read from blocks of this backbone's kind")
    yield (
        "patch_features",
        _grid(
            {"original": shown, "first three components": patch_pca(objective.encoder, images)}, "PCA of patch features"
        ),
    )


def _attention(vit: VisionTransformer, images: Tensor, shown: list[NDArray[np.float32]]) -> "Figure":
    maps = cls_attention(vit, images)
    columns = {"original": shown, **{f"head {head + 1}": list(maps[:, head]) for head in range(maps.shape[1])}}
    return _grid(columns, "Where the class token looks, last block", overlay="attention within a map")


@torch.no_grad()
def cls_attention(vit: VisionTransformer, images: Tensor) -> NDArray[np.float32]:
    """Attention of the class token over the patches in the last block.

    Args:
        vit: A ViT with a class token, the attention of whose last block is timm's `Attention`.
        images: (B, C, H, W) normalised.

    Returns:
        (B, heads, rows, columns), each map summing to at most 1.
    """
    caught: list[Tensor] = []
    attention = vit.blocks[-1].attn
    assert isinstance(attention, Attention)
    hook = attention.register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    was_training = vit.training
    vit.eval()
    vit.forward_features(images)
    hook.remove()
    vit.train(was_training)
    batch, tokens, dim = caught[0].shape
    heads = attention.num_heads
    query, key, _ = attention.qkv(caught[0]).reshape(batch, tokens, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
    weights = (attention.q_norm(query)[:, :, :1] @ attention.k_norm(key).transpose(-2, -1) * attention.scale).softmax(
        -1
    )
    patches = weights[:, :, 0, vit.num_prefix_tokens :]
    rows, columns = _grid_size(vit, images)
    maps: NDArray[np.float32] = patches.reshape(batch, heads, rows, columns).float().cpu().numpy()
    return maps


@torch.no_grad()
def patch_pca(vit: VisionTransformer, images: Tensor) -> list[NDArray[np.float32]]:
    """First three principal components of patch features as red, green and blue in [0, 1], (rows, columns, 3) each."""
    was_training = vit.training
    tokens = vit.eval().forward_features(images)[:, vit.num_prefix_tokens :].float()
    vit.train(was_training)
    flat = tokens.reshape(-1, tokens.shape[-1])
    flat = flat - flat.mean(0)
    _, _, directions = torch.linalg.svd(flat.cpu(), full_matrices=False)
    parts = flat.cpu() @ directions[:3].T
    low, high = parts.quantile(0.02, dim=0), parts.quantile(0.98, dim=0)
    scaled = ((parts - low) / (high - low).clamp(min=1e-8)).clamp(0, 1)
    rows, columns = _grid_size(vit, images)
    return list(scaled.reshape(len(images), rows, columns, 3).numpy())


def _grid_size(vit: VisionTransformer, images: Tensor) -> tuple[int, int]:
    patch_height, patch_width = vit.patch_embed.patch_size
    return images.shape[-2] // patch_height, images.shape[-1] // patch_width


def _view_columns(data: CXRDataModule, views: Views) -> dict[str, list[NDArray[np.float32]]]:
    columns = {f"large view {n + 1}": [data.to_grey(i) for i in view] for n, view in enumerate(views.global_)}
    for number, view in enumerate(views.local[:4]):
        columns[f"small view {number + 1}"] = [data.to_grey(image) for image in view]
    return columns


def _grid(columns: dict[str, list[NDArray[np.float32]]], title: str, *, overlay: str = "") -> "Figure":
    """Rows of pictures under column titles; with `overlay`, the name of their scale, all but the first lie over it.

    All in one pair of axes, whose unit is the width of a picture: a pair for each picture takes seconds to lay out.
    """
    from matplotlib.figure import Figure

    names, first = list(columns), next(iter(columns.values()))
    height, gap = first[0].shape[0] / first[0].shape[1], 0.06
    wide, high = len(names) * (1 + gap), len(first) * (height + gap)
    inches, above, beside = 1.6, 0.4 + 0.17 * len(title.splitlines()), bool(overlay)
    figure = Figure(figsize=(inches * wide + beside, inches * high + above))
    across, up = inches * wide / figure.get_figwidth(), inches * high / figure.get_figheight()
    axis = figure.add_axes((0, 0, across, up), xlim=(0, wide), ylim=(high, 0))
    axis.set_axis_off()
    figure.suptitle(title, fontsize=10, y=1 - 0.08 / figure.get_figheight())
    for column, name in enumerate(names):
        left = column * (1 + gap) + gap / 2
        axis.text(left + 0.5, -gap, name, fontsize=8, horizontalalignment="center")
        for row, picture in enumerate(columns[name]):
            top = row * (height + gap)
            extent = (left, left + 1, top + height, top)
            if overlay and column:
                axis.imshow(first[row], cmap="gray", vmin=0, vmax=1, extent=extent)
                axis.imshow(picture, cmap="inferno", alpha=0.6, extent=extent, interpolation="bilinear")
            else:
                axis.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=extent)
    axis.set(xlim=(0, wide), ylim=(high, 0))
    if overlay:
        _scale(figure, across, up, overlay)
    return figure


def _scale(figure: "Figure", across: float, up: float, name: str) -> None:
    """Draws the scale of the maps to the right of them.

    Every map has its own range: the shares of one head hardly differ, those of another are almost all in a spot.
    """
    from matplotlib.cm import ScalarMappable

    place = figure.add_axes((across + 0.15 / figure.get_figwidth(), 0.25 * up, 0.15 / figure.get_figwidth(), 0.5 * up))
    scale = figure.colorbar(ScalarMappable(cmap="inferno"), cax=place, alpha=0.6, ticks=[0, 1])
    scale.set_ticklabels(["least", "most"], fontsize=8)
    scale.set_label(name, fontsize=8)
