"""Supervised transforms: keyed, one channel, and each option does what it says."""

import numpy as np
import pytest

from cxrbase.data.augment import Augment, AugmentedCrop
from cxrbase.errors import ConfigError

STILL = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "rotate": 0.0, "jitter": 0.0, "gamma": 0.0, "erase": 0.0}


@pytest.fixture
def image():
    rows, columns = np.mgrid[:64, :64]
    return np.uint8(40 + 2 * columns + rows // 2)


def views(image, size=64, **options):
    crop = AugmentedCrop(size, Augment(**(STILL | options)))
    return np.stack([crop(image, (0, 0, row)) for row in range(24)]).astype(int)


def test_nothing_is_changed_where_nothing_is_asked_for(image):
    assert (views(image) == image).all()


def test_the_same_key_gives_the_same_pixels_and_another_epoch_others(image):
    one, two = AugmentedCrop(32, Augment()), AugmentedCrop(32, Augment())
    first = [one(image, (3, 1, row)) for row in range(5)]
    again = [two(image, (3, 1, row)) for row in reversed(range(5))][::-1]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert first[0].shape == (32, 32)
    assert first[0].dtype == np.uint8
    assert any((one(image, (3, 2, row)) != first[row]).any() for row in range(5))


def test_flip_mirrors_all_or_none(image):
    assert (views(image, flip=1.0) == image[:, ::-1]).all()
    assert (views(image, flip=0.0) == image).all()


def test_scale_and_ratio_bound_the_crop(image):
    spread = np.ptp(views(image, scale=(0.25, 0.25)).mean(1), axis=1)
    assert (np.abs(spread - np.ptp(image.mean(0)) / 2) < 4).all()
    wide = views(image, scale=(0.25, 0.25), ratio=(2.0, 2.0))
    assert (np.ptp(wide.mean(1), axis=1) > 1.25 * spread).all()


def test_rotate_jitter_gamma_and_erase_change_what_they_should(image):
    assert (views(image, rotate=30.0)[:, 0, 0] < 40).any()
    changed = views(image, jitter=1.0)
    assert (np.abs(changed.mean((1, 2)) - image.mean()) > 1).any()
    assert np.abs(changed.mean((1, 2)) / image.mean() - 1).max() < 0.5
    assert len(np.unique(views(image, gamma=1.0).mean((1, 2)).round(3))) > 3
    black = (views(image, erase=1.0) == 0).mean((1, 2))
    assert (black > 0).all()
    assert (black < 0.13).all()


@pytest.mark.parametrize(
    "wrong", [{"flip": 1.5}, {"erase": -1}, {"scale": (0.0, 1.0)}, {"ratio": (2.0, 1.0)}, {"rotate": 400.0}]
)
def test_what_is_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigError, match="must be"):
        Augment(**wrong)
