"""Refuses views that an objective or its network cannot use, before training starts."""

from timm.models.vision_transformer import VisionTransformer

from cxrbase.data.datamodule import CXRDataModule
from cxrbase.errors import ConfigError
from cxrbase.objectives import Objective
from cxrbase.sizes import height_width, plain


def check_views(objective: Objective, data: CXRDataModule, *, name: str) -> None:
    """Compares the number of views and the batch to what an objective needs.

    Args:
        objective: Who takes the views.
        data: Who makes them.
        name: What the objective is called.

    Raises:
        ConfigError: If they do not fit.
    """
    needed = objective.num_global_views
    if data.views.num_global != needed:
        raise ConfigError(
            f"{name} needs {needed} large views of each image, data.views makes {data.views.num_global}: "
            f"set --data.views.num_global={needed}"
        )
    if data.views.num_local and not objective.uses_local_views:
        raise ConfigError(
            f"{name} uses no small views, data.views makes {data.views.num_local}: set --data.views.num_local=0"
        )
    if data.batch_size < objective.min_batch_size:
        raise ConfigError(
            f"{name} needs at least {objective.min_batch_size} images per device, got data.batch_size {data.batch_size}"
        )


def check_sizes(encoder: VisionTransformer, data: CXRDataModule) -> None:
    """Compares the size of the views to the patches of a network and to the images that they are taken from.

    Raises:
        ConfigError: If patches do not tile a view, or images are kept smaller than it.
    """
    patch = height_width(encoder.patch_embed.patch_size)
    sizes = {"data.image_size": data.image_size}
    if data.views.num_local:
        sizes["data.views.local_size"] = data.views.local_pixels(data.image_size)
    for option, size in sizes.items():
        if any(side % part for side, part in zip(height_width(size), patch, strict=True)):
            said, unit = plain(size), plain(patch)
            raise ConfigError(
                f"{option} is {said}, which patches of {unit} pixels do not tile: set it to a multiple of {unit}"
            )
    if data.canvas_size is not None and data.canvas_size < min(height_width(data.image_size)):
        raise ConfigError(
            f"data.canvas_size {data.canvas_size} is smaller than data.image_size {plain(data.image_size)}, so that "
            "images would be scaled down and enlarged again: set --data.canvas_size=null, which keeps enough"
        )
