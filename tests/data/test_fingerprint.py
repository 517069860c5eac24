"""Exact and perceptual fingerprints."""

import io

import numpy as np
import pytest
from PIL import Image

from cxrbase.data.fingerprint import DIGITS, digits_of, mirrored, perceptual_hash, pixel_sha1, trimmed


@pytest.fixture(scope="module")
def image():
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 8), dtype=np.uint8))
    return np.asarray(coarse.resize((300, 340), Image.Resampling.BICUBIC))


def distance(first, second):
    return np.abs(digits_of([perceptual_hash(first)]).astype(int) - digits_of([perceptual_hash(second)])).mean()


def test_sha1_is_of_shape_and_pixels():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert len(pixel_sha1(image)) == 40
    assert pixel_sha1(image) == pixel_sha1(np.asfortranarray(image))
    assert pixel_sha1(image) != pixel_sha1(image.reshape(4, 3))


def test_hash_has_a_fixed_length(image):
    for one in (image, image[:1, :1], np.zeros((5, 900), np.uint8)):
        assert len(perceptual_hash(one)) == DIGITS == 120


@pytest.mark.parametrize("gamma", [0.6, 1.6])
def test_grey_changes_hardly_matter(image, gamma):
    changed = np.uint8(255 * (image / 255) ** gamma)
    assert distance(image, changed) < 0.3


def test_size_and_compression_hardly_matter(image):
    data = io.BytesIO()
    Image.fromarray(image).resize((210, 260), Image.Resampling.BICUBIC).save(data, "JPEG", quality=30)
    assert distance(image, np.asarray(Image.open(data))) < 0.5


def test_another_image_is_far(image):
    assert distance(image, np.rot90(image)) > 2


def test_flip_is_read_off_the_digits(image):
    digits, flipped = (digits_of([perceptual_hash(one)]) for one in (image, image[:, ::-1]))
    assert np.abs(mirrored(digits).astype(int) - flipped).max() <= 1
    assert np.array_equal(mirrored(mirrored(digits)), digits)


def test_trim_estimates_the_hash_of_the_cropped_image(image):
    height, width = image.shape
    cropped = image[round(0.06 * height) :, : width - round(0.05 * width)]
    digits, wanted = (digits_of([perceptual_hash(one)]) for one in (image, cropped))
    wanted = trimmed(wanted, 0, 0, 0, 0)
    before = np.abs(trimmed(digits, 0, 0, 0, 0) - wanted).mean()
    assert np.abs(trimmed(digits, 0.06, 0, 0, 0.05) - wanted).mean() < 0.6 * before


@pytest.mark.parametrize("text", ["", "ab", "g" * DIGITS])
def test_digits_of_refuses_other_text(text):
    with pytest.raises(ValueError, match="hex"):
        digits_of([text])
