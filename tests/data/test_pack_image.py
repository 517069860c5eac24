"""The size an original gets."""

import numpy as np
import pytest
from PIL import Image

from cxrbase.data.pack_image import ImageOptions, pack_image


@pytest.mark.parametrize(
    ("side", "stored"),
    [(260, 64), (252, 63), (248, 62), (244, 64), (128, 64), (126, 63), (64, 64), (63, 63), (40, 40)],
)
@pytest.mark.parametrize("suffix", ["png", "jpg", "jp2"])
def test_halving_may_end_three_per_cent_below_the_size(tmp_path, side, stored, suffix):
    rows, columns = np.mgrid[: side + 40, :side]
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(np.uint8(128 + 60 * np.sin(rows / 9) + 60 * np.cos(columns / 7))).save(path)
    packed = pack_image(path, ImageOptions(size=64))
    assert packed.width == stored
    assert packed.height == pytest.approx((side + 40) * stored / side, abs=1)
