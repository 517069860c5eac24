"""Decoding of every format against the values that were written, and DecodeError for whatever cannot be decoded."""

import contextlib
import pickle
import resource
import struct
import zlib
from functools import cache

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_rescale
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from cxrbase.data.decode import (
    INTENSITY_CONVENTION,
    crop_borders,
    decode,
    decode_uint8,
    intensity_convention,
    to_uint8,
)
from cxrbase.errors import ConfigError, DecodeError

RAMP_16 = np.arange(65536, dtype=np.uint16).reshape(256, 256)
RAMP_12 = np.arange(4096, dtype=np.uint16).reshape(64, 64)
RAMP_8 = np.arange(256, dtype=np.uint8).reshape(16, 16)


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def photo(height=60, width=48):
    rows, columns = np.mgrid[:height, :width]
    return np.uint8(127 + 80 * np.sin(rows / 9) + 40 * np.cos(columns / 7))


def write_dicom(path, stored, *, polarity="MONOCHROME2", frames=1, **elements):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        DigitalXRayImageStorageForPresentation,
        generate_uid(),
    )
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = Dataset()
    image.file_meta = meta
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.Modality, image.SamplesPerPixel, image.PhotometricInterpretation = "DX", 1, polarity
    image.Rows, image.Columns = stored.shape[-2:]
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    if frames > 1:
        image.NumberOfFrames = frames
    for name, value in elements.items():
        setattr(image, name, value)
    image.PixelData = stored.astype("<u2").tobytes()
    image.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("ramp", [RAMP_16, RAMP_12], ids=["16", "12"])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_no_bit_of_a_deep_image_is_clipped(tmp_path, ramp, suffix):
    Image.fromarray(ramp).save(tmp_path / f"ramp.{suffix}")
    pixels = decode(tmp_path / f"ramp.{suffix}")
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, ramp)
    shown = to_uint8(pixels).ravel().astype(int)
    assert set(np.diff(shown)) == {0, 1}
    assert (shown[0], shown[-1]) == (0, 255)


def test_eight_bit_images_come_out_as_stored(tmp_path):
    for suffix in ("png", "tiff", "bmp"):
        Image.fromarray(RAMP_8).save(tmp_path / f"ramp.{suffix}")
        pixels = decode(tmp_path / f"ramp.{suffix}")
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, RAMP_8)


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA", "LA"])
def test_grey_images_stored_with_colour_or_alpha_lose_nothing(tmp_path, mode):
    image = Image.fromarray(RAMP_8).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(RAMP_8.T.copy()))
    image.save(tmp_path / "ramp.png")
    np.testing.assert_array_equal(decode(tmp_path / "ramp.png"), RAMP_8)


def deep_png(samples, *, kind, between=b""):
    """A PNG of (H, W, C) uint16; Pillow writes none of these."""
    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + between + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def deep_tiff(samples):
    import cv2

    return cv2.imencode(".tiff", samples[..., [2, 1, 0, *range(3, samples.shape[2])]])[1].tobytes()


@pytest.mark.parametrize("ramp", [RAMP_16, RAMP_12], ids=["16", "12"])
def test_no_bit_of_a_deep_image_with_colour_or_alpha_is_clipped(tmp_path, ramp):
    grey, alpha = ramp[..., None], ramp.T[..., None]
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    files = {
        "rgb.png": deep_png(np.repeat(grey, 3, 2), kind=2),
        "alpha.png": deep_png(np.dstack([grey, alpha]), kind=4),
        "rgba.png": deep_png(np.dstack([grey, grey, grey, alpha]), kind=6),
        "rgb.tiff": deep_tiff(np.repeat(grey, 3, 2)),
        "rgba.tiff": deep_tiff(np.dstack([grey, grey, grey, alpha])),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        pixels = decode(tmp_path / name)
        assert pixels.dtype == np.uint16, name
        np.testing.assert_array_equal(pixels, ramp, err_msg=name)
        np.testing.assert_array_equal(decode_uint8(tmp_path / name), decode_uint8(tmp_path / "grey.png"), err_msg=name)


def test_deep_colours_are_weighed_as_those_of_8_bits_and_turned_by_their_tag(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (9, 14, 3)).astype(np.uint16) * 257
    Image.fromarray(np.uint8(colours >> 8)).save(tmp_path / "shallow.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "a.png").write_bytes(deep_png(colours, kind=2))
    (tmp_path / "b.png").write_bytes(deep_png(colours, kind=2, between=turned))
    (tmp_path / "c.tiff").write_bytes(deep_tiff(colours))
    upright = decode(tmp_path / "a.png")
    assert np.abs(upright / 257 - decode(tmp_path / "shallow.png")).max() <= 1
    np.testing.assert_array_equal(decode(tmp_path / "b.png"), np.rot90(upright, -1))
    np.testing.assert_array_equal(decode(tmp_path / "c.tiff"), upright)


def test_a_palette_is_looked_up_and_not_taken_for_brightness(tmp_path):
    image = Image.fromarray(RAMP_8, mode="L").convert("P")
    image.putpalette([value for index in range(256) for value in [255 - index] * 3])
    image.save(tmp_path / "ramp.png")
    np.testing.assert_array_equal(decode(tmp_path / "ramp.png"), 255 - RAMP_8)


def test_one_bit_images_are_black_and_white(tmp_path):
    Image.fromarray(RAMP_8 > 99).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(decode(tmp_path / "mask.png"), np.where(RAMP_8 > 99, 255, 0))


def test_jpeg_is_read_to_within_its_loss_and_turned_by_its_exif_tag(tmp_path):
    image = Image.fromarray(photo())
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    image.save(tmp_path / "upright.jpg", quality=95)
    image.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    assert np.abs(decode(tmp_path / "upright.jpg").astype(int) - photo()).max() <= 4
    np.testing.assert_array_equal(decode(tmp_path / "turned.jpg"), np.rot90(decode(tmp_path / "upright.jpg"), -1))


def test_float_tiff_keeps_its_values(tmp_path):
    values = np.random.default_rng(0).normal(-500, 300, (20, 30)).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    pixels = decode(tmp_path / "a.tiff")
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, values)
    values[3, 4] = np.nan
    Image.fromarray(values).save(tmp_path / "b.tiff")
    with pytest.raises(DecodeError, match="NaN"):
        decode(tmp_path / "b.tiff")


def test_tiff_of_several_frames_is_refused(tmp_path):
    image = Image.fromarray(RAMP_8)
    image.save(tmp_path / "a.tiff", save_all=True, append_images=[image, image])
    with pytest.raises(DecodeError, match="holds 3 frames"):
        decode(tmp_path / "a.tiff")


def tiff(path, values, *, order, photometric):
    """An uncompressed TIFF of one strip, written by hand because Pillow writes no white-is-zero."""
    height, width = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags[279] = len(data)
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    path.write_bytes(head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4))


@pytest.mark.parametrize("values", [RAMP_8, RAMP_12, RAMP_16], ids=["8", "12", "16"])
def test_tiff_of_either_polarity_comes_out_bone_bright(tmp_path, values):
    tiff(tmp_path / "black_is_zero.tiff", values, order="<", photometric=1)
    tiff(tmp_path / "white_is_zero.tiff", values, order="<", photometric=0)
    np.testing.assert_array_equal(decode(tmp_path / "black_is_zero.tiff"), values)
    np.testing.assert_array_equal(decode(tmp_path / "white_is_zero.tiff"), np.iinfo(values.dtype).max - values)


def test_tiff_of_the_other_byte_order(tmp_path):
    tiff(tmp_path / "a.tiff", RAMP_16, order=">", photometric=1)
    np.testing.assert_array_equal(decode(tmp_path / "a.tiff"), RAMP_16)


def test_dicom_monochrome2_equals_pydicom(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP_12)
    pixels = decode(path)
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, pydicom.dcmread(path).pixel_array)


def test_dicom_monochrome1_is_pydicom_inverted(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP_12, polarity="MONOCHROME1")
    np.testing.assert_array_equal(decode(path), 4095 - pydicom.dcmread(path).pixel_array)


@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (0.5, 3), (2, 10)])
def test_dicom_rescale_equals_pydicom(tmp_path, slope, intercept):
    path = write_dicom(tmp_path / "a.dcm", RAMP_12, RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")
    data = pydicom.dcmread(path)
    np.testing.assert_allclose(decode(path), apply_rescale(data.pixel_array, data), atol=1e-3)


def test_dicom_is_known_by_its_content_whatever_its_name(tmp_path):
    np.testing.assert_array_equal(decode(write_dicom(tmp_path / "image.png", RAMP_12)), RAMP_12)


def test_dicom_of_several_frames_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.stack([RAMP_12] * 3), frames=3)
    with pytest.raises(DecodeError, match="holds 3 frames"):
        decode(path)


def test_dicom_with_fewer_pixels_than_it_declares_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP_12, Rows=65)
    with pytest.raises(DecodeError, match="8192 of 8320 bytes"):
        decode(path)


def test_compressed_dicom_is_read(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP_12)
    data = pydicom.dcmread(path)
    data.compress(pydicom.uid.RLELossless)
    data.save_as(path)
    np.testing.assert_array_equal(decode(path), RAMP_12)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (0, 0, "have 0 segments, and its header allows for 2"),  # by which GDCM would divide
        (0, 3, "have 3 segments"),
        (4, 60, "not one after the other"),
        (8, 2**31, "not one after the other"),
        (8, 64, "not one after the other"),
    ],
)
def test_a_header_of_rle_that_would_end_the_process_is_refused(tmp_path, place, value, said):
    path = write_dicom(tmp_path / "a.dcm", RAMP_12)
    data = pydicom.dcmread(path)
    data.compress(pydicom.uid.RLELossless)
    data.save_as(path)
    whole = bytearray(path.read_bytes())
    header = whole.index(struct.pack("<2I", 2, 64))
    whole[header + place : header + place + 4] = struct.pack("<I", value)
    path.write_bytes(whole)
    with pytest.raises(DecodeError, match=said):
        decode(path)


def test_a_frame_of_rle_without_its_header_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP_12)
    data = pydicom.dcmread(path)
    data.compress(pydicom.uid.RLELossless)
    data.PixelData = pydicom.encaps.encapsulate([b"0" * 40])
    data.save_as(path)
    with pytest.raises(DecodeError, match="have 40 bytes, fewer than the 64 of their header"):
        decode(path)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """Bytes of one good file of each format."""
    folder = tmp_path_factory.mktemp("valid")
    image = Image.fromarray(photo())
    image.save(folder / "a.png")
    Image.fromarray(photo().astype(np.uint16) * 200).save(folder / "b.png")
    image.save(folder / "a.jpg")
    image.save(folder / "a.tiff")
    image.save(folder / "b.tiff", compression="tiff_lzw")
    image.save(folder / "a.webp", lossless=True)
    image.save(folder / "a.bmp")
    write_dicom(folder / "a.dcm", photo().astype(np.uint16) * 16)
    deep = np.repeat(photo()[..., None].astype(np.uint16) * 200, 3, 2)
    (folder / "deep.png").write_bytes(deep_png(deep, kind=2))
    (folder / "deep.tiff").write_bytes(deep_tiff(deep))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


NAMES = ["a.png", "b.png", "a.jpg", "a.tiff", "b.tiff", "a.webp", "a.bmp", "a.dcm", "deep.png", "deep.tiff"]


def refused(path, reason=None):
    with pytest.raises(DecodeError, match=reason) as raised:
        decode(path, source="somewhere")
    assert str(path) in str(raised.value)
    assert raised.value.source == "somewhere"
    return raised.value


@pytest.mark.parametrize("share", [0.003, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97])
@pytest.mark.parametrize("name", NAMES)
def test_truncated_files_are_refused(tmp_path, valid, name, share):
    (tmp_path / name).write_bytes(valid[name][: int(share * len(valid[name]))])
    refused(tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
def test_empty_files_and_noise_are_refused(tmp_path, name):
    (tmp_path / name).touch()
    refused(tmp_path / name, "the file is empty")
    (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(5000))
    refused(tmp_path / name)


def test_missing_files_and_folders_are_refused(tmp_path):
    refused(tmp_path / "nowhere.png", "No such file")
    (tmp_path / "folder.png").mkdir()
    refused(tmp_path / "folder.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    refused(tmp_path / "loop.png")


def png_header(side, *, bits=8, kind=0):
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [11_000, 30_000])
def test_a_header_that_declares_too_many_pixels_is_refused_before_they_are_allocated(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(png_header(side))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path / "bomb.png", "pixels")
    (tmp_path / "deep.png").write_bytes(png_header(side, bits=16, kind=6))
    refused(tmp_path / "deep.png", "pixels")
    write_dicom(tmp_path / "bomb.dcm", RAMP_12, Rows=side, Columns=side)
    refused(tmp_path / "bomb.dcm", "more than 100,000,000")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_decode_error_survives_the_way_out_of_a_worker():
    error = DecodeError("nih", "a/b.png", "it is damaged")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.source, again.key, again.reason) == (str(error), "nih", "a/b.png", "it is damaged")


@settings(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_damaged_files_are_decoded_or_refused(tmp_path_factory, valid, data, name):
    damaged = bytearray(valid[name])
    # Most damage goes into the first bytes, where the headers are.
    for start in data.draw(st.lists(st.integers(0, 400) | st.integers(0, len(damaged) - 1), min_size=1, max_size=5)):
        new = data.draw(st.binary(min_size=1, max_size=4))
        damaged[start : start + len(new)] = new
    path = tmp_path_factory.getbasetemp() / f"damaged_{name}"
    path.write_bytes(damaged)
    with contextlib.suppress(DecodeError):
        pixels = decode(path)
        assert pixels.ndim == 2
        assert pixels.dtype in (np.uint8, np.uint16, np.float32)
        assert to_uint8(pixels).shape == pixels.shape


def test_to_uint8_leaves_eight_bits_alone_and_makes_constants_black():
    np.testing.assert_array_equal(to_uint8(RAMP_8), RAMP_8)
    for dtype in (np.uint16, np.float32):
        np.testing.assert_array_equal(to_uint8(np.full((5, 7), 1234, dtype)), np.zeros((5, 7)))


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.integers(0, 65535), min_size=4, max_size=200))
def test_to_uint8_is_monotone_and_uses_the_whole_range(values):
    pixels = np.sort(np.uint16(values))[None]
    for dtype in (np.uint16, np.float32):
        shown = to_uint8(pixels.astype(dtype))[0].astype(int)
        assert (np.diff(shown) >= 0).all()
        if pixels.min() < pixels.max():
            assert (shown[0], shown[-1]) == (0, 255)


def test_to_uint8_gives_a_few_extreme_pixels_no_say():
    pixels = np.random.default_rng(0).integers(1000, 2000, (200, 200)).astype(np.uint16)
    clean = to_uint8(pixels)
    pixels[0, :10] = 65535
    assert np.abs(to_uint8(pixels)[1:].astype(int) - clean[1:]).max() <= 1


@cache
def large(height=1300, width=1050):
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).normal(0, 2, rows.shape)
    return np.uint8(np.clip(127 + 70 * np.sin(rows / 70) + 40 * np.cos(columns / 60) + noise, 0, 255))


SAVED = {
    "png8.png": (1, {}),
    "png16.png": (257, {}),
    "deep.tiff": (257, {}),
    "a.jpg": (1, {"quality": 95}),
    "progressive.jpg": (1, {"quality": 95, "progressive": True}),
    "lossless.webp": (1, {"lossless": True}),
    "lossy.webp": (1, {"quality": 90}),
    "a.bmp": (1, {}),
    "a.jp2": (1, {"irreversible": False}),
    "deep.jp2": (257, {"irreversible": False}),
}


def save_large(folder, name, image=None):
    scale, options = SAVED[name]
    image = large() if image is None else image
    Image.fromarray(image if scale == 1 else image.astype(np.uint16) * np.uint16(scale)).save(folder / name, **options)
    return folder / name


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The large image in a format and what reading it in full gives, each made when it is first asked for."""
    folder = tmp_path_factory.mktemp("saved")

    @cache
    def of(name):
        path = save_large(folder, name)
        return path, decode_uint8(path)

    return of


@pytest.mark.parametrize("name", sorted(SAVED))
def test_readers_of_other_libraries_give_the_pixels_of_pillow(saved, name):
    path, _ = saved(name)
    with Image.open(path) as image:
        expected = np.array(image if image.mode in ("L", "I;16") else image.convert("RGB").convert("L"))
    pixels = decode(path)
    assert pixels.dtype == expected.dtype
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 80}])
def test_webp_of_colours_and_alpha_gives_the_pixels_of_pillow(tmp_path, mode, options):
    channels = np.random.default_rng(0).integers(0, 256, (90, 70, len(mode)), np.uint8)
    Image.fromarray(channels, mode=mode).save(tmp_path / "a.webp", **options)
    with Image.open(tmp_path / "a.webp") as image:
        expected = np.array(image.convert("RGB").convert("L"))
    np.testing.assert_array_equal(decode(tmp_path / "a.webp"), expected)


@pytest.mark.parametrize("name", ["png8.png", "a.jpg", "lossless.webp"])
def test_images_are_turned_by_their_exif_tag_whatever_reads_them(saved, tmp_path, name):
    upright, exif, path = decode(saved(name)[0]), Image.Exif(), tmp_path / name
    exif[0x0112] = 6
    Image.fromarray(large()).save(path, exif=exif, **SAVED[name][1])
    np.testing.assert_array_equal(decode(path), np.rot90(upright, -1))
    assert decode_uint8(path, min_side=512).shape == (525, 650)


@pytest.mark.parametrize("name", sorted(SAVED))
@pytest.mark.parametrize(
    ("min_side", "factor"), [(None, 1), (600, 1), (525, 2), (512, 2), (200, 4), (100, 8), (20, 32)]
)
def test_reduced_resolution_equals_the_full_one_averaged(saved, name, min_side, factor):
    import cv2

    path, full = saved(name)
    small = decode_uint8(path, min_side=min_side)
    height, width = -(-1300 // factor), -(-1050 // factor)
    assert small.shape == (height, width)
    expected = cv2.resize(full, (width, height), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(small.ravel(), expected.ravel())[0, 1] > 0.999
    assert np.abs(small.astype(int) - expected).mean() < 2


def test_jpeg_2000_without_lower_resolutions_is_read_in_full_and_then_reduced(tmp_path):
    Image.fromarray(large()).save(tmp_path / "a.jp2", num_resolutions=1, irreversible=False)
    assert decode_uint8(tmp_path / "a.jp2", min_side=200).shape == (325, 263)


def test_colour_jpeg_is_reduced_to_its_brightness(tmp_path):
    Image.fromarray(large()).convert("RGB").save(tmp_path / "a.jpg", quality=95)
    small = decode_uint8(tmp_path / "a.jpg", min_side=512)
    full = decode_uint8(tmp_path / "a.jpg").astype(float)
    np.testing.assert_allclose(small, full.reshape(650, 2, 525, 2).mean((1, 3)), atol=6)


def test_eight_bits_of_decode_uint8_are_those_of_decode(saved):
    for name in ("png8.png", "png16.png"):
        path, _ = saved(name)
        for window in ("percentile", "dicom"):
            np.testing.assert_array_equal(decode_uint8(path, window=window), to_uint8(decode(path)))


def test_convention_names_the_window():
    assert intensity_convention() == intensity_convention("percentile") == INTENSITY_CONVENTION
    assert "VOI" in intensity_convention("dicom")
    with pytest.raises(ConfigError, match=r"one of percentile, dicom, got 'lung'"):
        intensity_convention("lung")


def test_black_borders_are_found_and_cut_off(tmp_path):
    image = np.zeros((1500, 1400), np.uint8)
    image[100:1400, 250:1300] = np.maximum(large(), 9)
    image[:100] = 5  # left by a lossy format
    assert crop_borders(image) == (100, 250, 1300, 1050)
    assert crop_borders(image, tolerance=4) == (0, 0, 1400, 1400)
    path = save_large(tmp_path, "png8.png", image)
    np.testing.assert_array_equal(decode_uint8(path, crop=True), np.maximum(large(), 9))
    assert crop_borders(np.zeros((4, 5), np.uint8)) == (0, 0, 4, 5)
    assert crop_borders(np.full((4, 5), 9, np.uint8)) == (0, 0, 4, 5)


@pytest.mark.parametrize(("min_side", "shape"), [(512, (650, 525)), (600, (1300, 1050))])
def test_what_is_left_of_a_cropped_image_is_not_below_the_side_asked_for(tmp_path, min_side, shape):
    image = np.zeros((1500, 1400), np.uint8)
    image[100:1400, 250:1300] = np.maximum(large(), 9)
    path = save_large(tmp_path, "png8.png", image)
    assert decode_uint8(path, crop=True, min_side=min_side).shape == shape


@pytest.mark.parametrize("name", ["png16.png", "a.jpg", "lossless.webp", "lossy.webp"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999])
def test_readers_of_other_libraries_fill_up_no_truncated_file(saved, tmp_path, name, share):
    whole = saved(name)[0].read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    refused(tmp_path / name)
