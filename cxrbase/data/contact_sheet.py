"""A page of sample images, with what the manifest says about each."""

from pathlib import Path

import numpy as np

from cxrbase.data.decode import decode, to_uint8
from cxrbase.data.manifest import Manifest


def contact_sheet(manifest: Manifest, path: str | Path, *, rows: int = 5, columns: int = 8) -> None:
    """Draws a random choice of images, the same each time, with view position, site and findings.

    Args:
        manifest: Images to choose from.
        path: PNG to write.
        rows: Rows of images.
        columns: Columns of images.

    Raises:
        DecodeError: One of the chosen images cannot be read.
    """
    from matplotlib.figure import Figure

    count = min(rows * columns, len(manifest))
    chosen = np.sort(np.random.default_rng(0).choice(len(manifest), count, replace=False))
    figure = Figure(figsize=(1.9 * columns, 2.3 * rows), layout="constrained", facecolor="white")
    files, labels, names = manifest.paths, manifest.label_matrix(), manifest.labels
    views, sites = manifest.column("view_position"), manifest.column("site")
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, row in zip(grid.flat[:count], chosen, strict=True):
        axes.imshow(to_uint8(decode(files[row])), cmap="gray", vmin=0, vmax=255)
        found = [name for name, value in zip(names, labels[row], strict=True) if value == 1]
        lines = [", ".join(found[i : i + 2]) for i in range(0, len(found), 2)] or ["no finding"]
        axes.set_title("\n".join([f"{views[row]} {sites[row]}".strip(), *lines]), fontsize=6)
    figure.savefig(path, dpi=110)
