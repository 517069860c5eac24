"""Images by row for the stream: nothing of what a canvas held is left, and others stand in for unreadable ones."""

import numpy as np
from PIL import Image

from cxrbase.data.canvas import CanvasStore
from cxrbase.data.dataset import StreamDataset
from cxrbase.data.manifest import Manifest
from cxrbase.data.quarantine import Quarantine


def opened(folder, *, count):
    """Images of 20 x 18 pixels, each of one grey."""
    for number in range(count):
        Image.fromarray(np.full((20, 18), 90 + number, np.uint8)).save(folder / f"{number:02}.png")
    return CanvasStore.open(Manifest.from_folder(folder), size=24, cache_dir=folder / ".canvas")


def test_nothing_is_left_of_what_a_canvas_held_before(tmp_path):
    canvas = np.full((24, 24), 255, np.uint8)
    assert StreamDataset(opened(tmp_path, count=1)).fill(canvas, 0) == (0, 20, 18)
    assert (canvas[:20, :18] == 90).all()
    assert not canvas[20:].any()
    assert not canvas[:, 18:].any()


def test_what_stands_in_for_unreadable_images_is_of_the_pool_and_not_always_the_same(tmp_path):
    store = opened(tmp_path, count=50)
    quarantine = Quarantine(50, limit=1, names=store.names)
    quarantine.add(np.arange(20), "damaged")
    dataset = StreamDataset(store, seed=5, pool=np.arange(45), on_corrupt="skip", quarantine=quarantine)
    drawn = []
    for epoch in (0, 1, 0):
        dataset.epoch.fill_(epoch)
        drawn.append([dataset[row][2] for row in range(20)])
        assert set(drawn[-1]) <= set(range(20, 45))
        assert len(set(drawn[-1])) > 5
    assert drawn[0] == drawn[2] != drawn[1]
