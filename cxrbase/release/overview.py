"""One figure of an explained image: the original, and each map over it with its scale."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxrbase.release.overlay import colour_range, overlay, to_original

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Unit of the values of each map: only occlusion's mean something by themselves.
_UNITS = {
    "rollout": "attention that reaches the patch",
    "gradient": "attention x gradient",
    "relevance": "relevance",
    "occlusion": "loss where hidden",
}
_SHORT = 5  # inches


def overview(
    image: NDArray[np.uint8],
    maps: Sequence[tuple[str, NDArray[np.float32]]],
    *,
    view: tuple[int, int] = (1, 1),
    about: str = "",
    notes: Sequence[str] = (),
) -> "Figure":
    """The figure.

    Args:
        image: (H, W) of the original.
        maps: Method and its map of patches (rows, columns).
        view: Height and width of what the encoder was fed, as of `to_original`.
        about: Title: what is explained.
        notes: Line under each map, such as a doubt, or nothing.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    tall, wide = image.shape
    panel = _SHORT * wide / tall if wide < tall else _SHORT
    figure = Figure(figsize=((len(maps) + 1) * (panel + 0.6), panel * tall / wide + 1), layout="constrained")
    axes = figure.subplots(1, len(maps) + 1, squeeze=False)[0]
    axes[0].imshow(image, cmap="gray", vmin=0, vmax=255)
    axes[0].set_title("original")
    for axis, (method, patches), note in zip(axes[1:], maps, notes or [""] * len(maps), strict=True):
        values = to_original(patches, (tall, wide), view=view)
        axis.imshow(overlay(image, values))
        axis.set_title(method)
        axis.set_xlabel(note)
        scale = ScalarMappable(Normalize(*colour_range(values)), "inferno")
        figure.colorbar(scale, ax=axis, location="bottom", shrink=0.8, label=_UNITS[method])
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(about)
    return figure
