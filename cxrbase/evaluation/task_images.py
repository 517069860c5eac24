"""Opens the pixels of a task: canvases of a folder of files, or shards of packed images."""

from pathlib import Path

from cxrbase.data.canvas import CanvasStore
from cxrbase.data.dataset import ImageStore
from cxrbase.data.images import default_cache, is_packed, open_packed
from cxrbase.data.manifest import Manifest
from cxrbase.data.reading import Reading
from cxrbase.evaluation.task_data import TaskData


def open_images(
    data: TaskData,
    *,
    size: int,
    read: Reading,
    manifest: Manifest | None = None,
    cache_dir: str | Path | None = None,
    option: str,
    limit_gb: float = 8.0,
    max_bad: float = 0.01,
    bad_option: str = "--evaluate.max_bad",
) -> ImageStore:
    """Opens the images of a task, row by row those of a manifest.

    Args:
        data: The task.
        size: Longest side that is kept of an image, in pixels.
        read: How the encoder's images are read; packed ones are as they were packed, see `Reading.unlike`.
        manifest: Other images of the same place, such as those that the task leaves out; None takes the task's.
        cache_dir: Where decoded canvases are kept; None takes a folder beside the images. Packed images need none.
        option: Option of the command line that sets `cache_dir`, for messages.
        limit_gb: Above this size canvases are decoded on access; shards of an object store are kept up to this size.
        max_bad: Largest share of unreadable images of a folder that is tolerated.
        bad_option: Option of the command line that sets `max_bad`, for messages.

    Raises:
        ManifestError: More images are unreadable, or the canvases cannot be written.
        ShardError: The packed images are gone or damaged.
    """
    root, manifest = data.task.data.root, manifest or data.manifest
    if is_packed(root):
        # The shards of an object store are shared by all commands, so they stay where its index was fetched to.
        names = manifest.column("path").tolist()
        return open_packed(root, size=size, cache=default_cache(root), limit_gb=limit_gb, names=names)[1]
    return CanvasStore.open(
        manifest,
        size=size,
        read=read,
        cache_dir=cache_dir or default_cache(root),
        limit_gb=limit_gb,
        max_bad=max_bad,
        option=option,
        bad_option=bad_option,
    )
