"""DICOM radiographs against pydicom, pixel by pixel, and every way in which a header can mislead."""

import contextlib
import io
import resource
import sys
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    RLELossless,
    generate_uid,
)

from cxrbase.data.canvas import CanvasStore
from cxrbase.data.decode import decode, decode_uint8, to_uint8
from cxrbase.data.decode_dicom import read_dicom
from cxrbase.data.manifest import Manifest
from cxrbase.errors import DecodeError

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def smooth(height=700, width=530, top=4095):
    rows, columns = np.mgrid[:height, :width]
    waves = 0.5 + 0.25 * np.sin(rows / 40) + 0.2 * np.cos(columns / 30)
    return np.uint16(top * waves.clip(0, 1) + np.random.default_rng(0).integers(0, 8, rows.shape)).clip(0, top)


def data_set(stored, *, bits=12, **elements):
    """A DX data set of 16 bits allocated; an element of None is left out."""
    meta, data = FileMetaDataset(), Dataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    data.file_meta = meta
    data.Modality, data.SamplesPerPixel, data.PhotometricInterpretation = "DX", 1, "MONOCHROME2"
    data.Rows, data.Columns = stored.shape[:2]
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 * stored.dtype.itemsize, bits, bits - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    for name, value in elements.items():
        setattr(data, name, value)
        if value is None:
            delattr(data, name)
    data.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    data["PixelData"].VR = "OW"
    return data


def saved(path, data):
    data.save_as(path, enforce_file_format=True)
    return path


def write(folder, stored, **elements):
    return saved(folder / "a.dcm", data_set(stored, **elements))


def with_codestream(data, frame, syntax):
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([frame])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    return data


def encoded(values, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, form, **options)
    return buffer.getvalue()


def j2k(values):
    return encoded(values, "JPEG2000", no_jp2=True, irreversible=False)


def table(entries, first, bits, vr="OW"):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", vr, np.asarray(entries, "<u2").tobytes() if vr == "OW" else [int(one) for one in entries])
    return [item]


def to_255(values, low=None, high=None):
    values = values.astype(np.float64)
    low, high = (values.min() if low is None else low), (values.max() if high is None else high)
    return (values - low) / (high - low) * 255


# --- Files that come with pydicom -----------------------------------------------------------------------------------

BUNDLED = Path(pydicom.__file__).parent / "data"
# What differs from pydicom, and why.
DIFFERENT = {
    "CT2/17106": "padding",
    "693_J2KI.dcm": "padding",  # values next to it, from lossy compression, stay as they are in both
    "CT_small.dcm": "padding",
}
REFUSED = {
    "MR_truncated.dcm": "ends 62 bytes early",
    "JPEG2000-embedded-sequence-delimiter.dcm": "wide, high and deep",  # its codestream has a delimiter for a width
    "badVR.dcm": "1A",
}
# No pydicom plugin here decodes these: what they are compared with instead.
PAIRS = {
    "MR_small_jpeg_ls_lossless.dcm": ("MR_small.dcm", 0),
    "MR_small_RLE.dcm": ("MR_small.dcm", 0),
    "MR_small_jp2klossless.dcm": ("MR_small.dcm", 0),
    "MR_small_bigendian.dcm": ("MR_small.dcm", 0),
    "rtdose_rle_1frame.dcm": ("rtdose_1frame.dcm", 0),
}


def bundled():
    """Files on this machine of one grey frame; pydicom would download the others."""
    for path in sorted(BUNDLED.rglob("*")):
        if path.is_file() and path.suffix in ("", ".dcm"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data = pydicom.dcmread(path, force=True, defer_size=1024)
                if "PixelData" in data and str(data.get("PhotometricInterpretation")).startswith("MONO"):
                    frames = data.get_item("NumberOfFrames")
                    if frames is None or frames.value in (b"1 ", b"1", b"1A"):
                        yield path


FILES = {"/".join(path.parts[-2:]) if not path.suffix else path.name: path for path in bundled()}


def pixels_of_pydicom(path):
    data = pydicom.dcmread(path, force=True)
    try:
        return data, data.pixel_array
    except (RuntimeError, NotImplementedError):
        pytest.skip("pydicom has no decoder for it here")


def test_there_are_files_to_compare():
    assert len(FILES) > 60
    assert set(DIFFERENT) | set(REFUSED) | set(PAIRS) <= set(FILES)


@pytest.mark.parametrize("name", sorted(set(FILES) - set(REFUSED)))
def test_bundled_file_equals_pydicom(name):
    path = FILES[name]
    pixels = decode(path)
    data, stored = pixels_of_pydicom(path)
    expected = apply_modality_lut(stored, data).astype(np.float64)
    if data.PhotometricInterpretation == "MONOCHROME1":
        ends = np.array([0, 2**data.BitsStored - 1])
        expected = apply_modality_lut(ends, data).sum() - expected
    measured = np.ones(stored.shape, bool)
    if name in DIFFERENT:
        measured = stored != data.PixelPaddingValue
        assert (pixels[~measured] == pixels[measured].min()).all()
    np.testing.assert_allclose(pixels[measured], expected[measured], rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("name", sorted(set(FILES) - set(REFUSED)))
def test_window_of_a_bundled_file_equals_pydicom(name):
    data, stored = pixels_of_pydicom(FILES[name])
    if "WindowWidth" not in data:
        pytest.skip("it has no window")
    shown = apply_voi_lut(apply_modality_lut(stored, data), data).astype(np.float64)
    if shown.min() == shown.max():
        expected = decode_uint8(FILES[name])  # the window shows nothing
    else:
        ends = np.array([-1e6, 1e6])  # far beyond the window lie the ends of the output
        expected = to_255(shown, *apply_voi_lut(ends, data))
    if data.PhotometricInterpretation == "MONOCHROME1":
        expected = 255 - expected
    padded = stored == data.get("PixelPaddingValue")
    expected = np.where(padded, 0, expected)
    assert np.abs(decode_uint8(FILES[name], window="dicom") - expected).max() <= 0.51


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_compressed_bundled_file_equals_its_uncompressed_pair(name):
    pair, tolerance = PAIRS[name]
    assert np.abs(decode(FILES[name]).astype(float) - decode(FILES[pair])).max() <= tolerance


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_damaged_bundled_file_is_refused(name):
    with pytest.raises(DecodeError, match=REFUSED[name]):
        decode(FILES[name])


def test_twelve_bit_jpeg_is_read():
    pixels = decode(FILES["JPEG-lossy.dcm"])
    assert (pixels.dtype, pixels.shape, pixels.min()) == (np.uint16, (1024, 256), 0)
    np.testing.assert_array_equal(pixels, decode(FILES["JPGExtended.dcm"]))
    # The same image as the uncompressed nuclear scan of JPEG2000.dcm.
    assert np.corrcoef(pixels.ravel(), decode(FILES["JPEG2000.dcm"]).ravel())[0, 1] > 0.95


# --- Modality, polarity ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
    ],
)
@pytest.mark.parametrize("kind", ["raw", "j2k", "rle"])
def test_polarity_is_turned_once_about_the_stored_bits(tmp_path, photometric, shape, inverted, kind):
    data = data_set(RAMP, PhotometricInterpretation=photometric)
    if shape:
        data.PresentationLUTShape = shape
    if kind == "rle":
        data.compress(RLELossless)
    if kind == "j2k":
        with_codestream(data, j2k(RAMP), JPEG2000Lossless)
    pixels = decode(saved(tmp_path / "a.dcm", data))
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, 4095 - RAMP if inverted else RAMP)


@pytest.mark.parametrize(("bits", "photometric"), [(8, "RGB"), (16, "RGB"), (8, "YBR_FULL")])
def test_colour_in_rle_is_what_it_is_uncompressed(tmp_path, bits, photometric):
    colour = np.random.default_rng(0).integers(0, 2**bits, (20, 30, 3)).astype(f"u{bits // 8}")
    data = data_set(colour, PhotometricInterpretation=photometric, SamplesPerPixel=3, PlanarConfiguration=0,
                    BitsStored=bits, HighBit=bits - 1)  # fmt: skip
    plain = decode(saved(tmp_path / "plain.dcm", data))
    data.compress(RLELossless)
    np.testing.assert_array_equal(decode(saved(tmp_path / "rle.dcm", data)), plain)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("bits", "kind"), [(8, "u1"), (12, "u2"), (16, "u2"), (12, "i2")])
@pytest.mark.parametrize("predictor", [1, 4, 7])
def test_lossless_jpeg_is_what_it_is_uncompressed(predictor, bits, kind, fast, tmp_path, monkeypatch):
    values = smooth(120, 90, top=2**bits - 1).astype("u2")
    stored = values.astype(kind) if kind[0] == "u" else values.astype(kind) - 2048
    plain = decode(saved(tmp_path / "plain.dcm", data_set(stored, bits=bits)))
    masked = np.asarray(stored.astype("u2") & (2**bits - 1), "u1" if bits == 8 else "u2")
    frame = imagecodecs.jpeg8_encode(masked, lossless=True, predictor=predictor, bitspersample=bits)
    data = with_codestream(data_set(stored, bits=bits), frame, JPEGLossless)
    if not fast:
        monkeypatch.setitem(sys.modules, "imagecodecs", None)
    np.testing.assert_array_equal(decode(saved(tmp_path / "jpeg.dcm", data)), plain)


def palette_set(indices):
    """Indices of 8 bits into a table of greys that falls and rises, so that an index is not its brightness."""
    greys = np.uint16(257 * (np.arange(256) * 37 % 256)).tobytes()
    tables = {f"{name}PaletteColorLookupTableData": greys for name in ("Red", "Green", "Blue")}
    tables |= {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in ("Red", "Green", "Blue")}
    return data_set(indices, bits=8, PhotometricInterpretation="PALETTE COLOR", **tables)


@pytest.mark.parametrize("min_side", [None, 16])
@pytest.mark.parametrize("kind", ["lossless", "j2k", "rle"])
def test_a_palette_is_looked_up_however_its_indices_are_compressed(kind, min_side, tmp_path):
    indices = np.uint8(smooth(120, 90) >> 4)
    plain = decode_uint8(saved(tmp_path / "plain.dcm", palette_set(indices)))
    data = palette_set(indices)
    if kind == "rle":
        data.compress(RLELossless)
    elif kind == "j2k":
        with_codestream(data, j2k(indices), JPEG2000Lossless)
    else:
        with_codestream(data, imagecodecs.jpeg8_encode(indices, lossless=True), JPEGLossless)
    found = decode_uint8(saved(tmp_path / "packed.dcm", data), min_side=min_side)
    expected = plain if min_side is None else decode_uint8(tmp_path / "plain.dcm", min_side=min_side)
    np.testing.assert_allclose(found.astype(float), expected, atol=1)


@pytest.mark.parametrize("kept", [0.5, 0.9, 0.99])
def test_lossless_jpeg_that_ends_early_is_refused(kept, tmp_path):
    image = smooth(120, 90)
    frame = imagecodecs.jpeg8_encode(image, lossless=True, bitspersample=12)
    short = frame[: 2 * int(kept * len(frame) / 2)]
    with pytest.raises(DecodeError, match="the DICOM file cannot be read"):
        decode(saved(tmp_path / "short.dcm", with_codestream(data_set(image), short, JPEGLossless)))


def rle_file(path, shape, segment):
    """A file of 8 bits whose only segment was made by hand."""
    data = data_set(np.zeros(shape, np.uint8), bits=8)
    frame = np.uint32([1, 64, *[0] * 14]).tobytes() + segment
    return saved(path, with_codestream(data, frame + b"\x00" * (len(frame) % 2), RLELossless))


def test_runs_may_cross_the_ends_of_rows_and_may_not_end_early(tmp_path):
    # 257 - 238 = 19 times 7, nothing, then the three bytes 1, 2 and 3, then two times 9; more is padding.
    segment = bytes([238, 7, 128, 2, 1, 2, 3, 255, 9])
    found = decode(rle_file(tmp_path / "a.dcm", (4, 6), segment))
    assert found.tolist() == np.uint8([7] * 19 + [1, 2, 3, 9, 9]).reshape(4, 6).tolist()
    with pytest.raises(DecodeError, match="its RLE pixels are damaged"):
        decode(rle_file(tmp_path / "b.dcm", (4, 7), segment))


def test_signed_values_are_mirrored_within_their_range(tmp_path):
    stored = RAMP.astype(np.int16) - 2048
    path = write(tmp_path, stored, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(decode(path), -1 - stored)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("slope", "intercept"), [(-1, 4095), (-0.5, 3), (2, -100), (0, 0)])
def test_slope_of_either_sign(tmp_path, photometric, slope, intercept):
    path = write(tmp_path, RAMP, PhotometricInterpretation=photometric, RescaleSlope=slope, RescaleIntercept=intercept)
    values = (slope or 1) * RAMP.astype(float) + intercept
    expected = values.min() + values.max() - values if photometric == "MONOCHROME1" else values
    np.testing.assert_allclose(decode(path), expected, atol=1e-3)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("vr", ["OW", "US"])
def test_modality_table_equals_pydicom(tmp_path, photometric, vr):
    entries = np.uint16(np.sqrt(np.arange(4000)) * 1000)
    data = data_set(RAMP, PhotometricInterpretation=photometric, ModalityLUTSequence=table(entries, 50, 16, vr))
    path = saved(tmp_path / "a.dcm", data)
    read = pydicom.dcmread(path)
    expected = apply_modality_lut(read.pixel_array, read)
    np.testing.assert_array_equal(decode(path), 65535 - expected if photometric == "MONOCHROME1" else expected)


@pytest.mark.parametrize("kind", ["raw", "j2k", "rle"])
def test_missing_high_bit_does_not_load_blank(tmp_path, kind):
    data = data_set(RAMP)
    if kind == "rle":
        data.compress(RLELossless)
    if kind == "j2k":
        with_codestream(data, j2k(RAMP), JPEG2000Lossless)
    del data.HighBit
    np.testing.assert_array_equal(decode(saved(tmp_path / "a.dcm", data)), RAMP)


def test_bits_at_the_top_of_a_word_and_overlays_beside_them(tmp_path):
    np.testing.assert_array_equal(decode(write(tmp_path, RAMP << 4, HighBit=15)), RAMP)
    np.testing.assert_array_equal(decode(write(tmp_path, RAMP | 0x8000)), RAMP)


def test_deflated_and_eight_bit_files(tmp_path):
    data = data_set(RAMP)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    np.testing.assert_array_equal(decode(saved(tmp_path / "a.dcm", data)), RAMP)
    pixels = decode(write(tmp_path, np.uint8(RAMP >> 4), bits=8))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, RAMP >> 4)


# --- Windows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (1500.5, 701), ([900, 3000], [400, 50]), (2000, 1)])
@pytest.mark.parametrize("slope", [1, -1])
def test_window_functions_equal_pydicom(tmp_path, photometric, function, center, width, slope):
    elements = {"VOILUTFunction": function} if function else {}
    data = data_set(RAMP, PhotometricInterpretation=photometric, WindowCenter=center, WindowWidth=width, **elements)
    data.RescaleSlope, data.RescaleIntercept = slope, 0 if slope == 1 else 4095
    path = saved(tmp_path / "a.dcm", data)
    read = pydicom.dcmread(path)
    values = apply_modality_lut(read.pixel_array, read)
    # pydicom would turn the output range upside down for a negative slope, which undoes the modality step.
    del read.RescaleSlope, read.RescaleIntercept
    shown = to_255(apply_voi_lut(values, read), 0, 4095)
    expected = 255 - shown if photometric == "MONOCHROME1" else shown
    assert np.abs(decode_uint8(path, window="dicom") - expected).max() <= 0.51


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_voi_table_equals_pydicom_and_comes_before_a_window(tmp_path, photometric):
    entries = np.uint16(np.linspace(0, 63.9, 3000) ** 2)
    data = data_set(RAMP, PhotometricInterpretation=photometric, VOILUTSequence=table(entries, 500, 12))
    data.WindowCenter, data.WindowWidth = 100, 10
    path = saved(tmp_path / "a.dcm", data)
    read = pydicom.dcmread(path)
    shown = apply_voi_lut(read.pixel_array, read) / 4095 * 255
    expected = 255 - shown if photometric == "MONOCHROME1" else shown
    assert np.abs(decode_uint8(path, window="dicom") - expected).max() <= 0.51


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"WindowCenter": 2000, "WindowWidth": 0},
        {"WindowCenter": 2000},
        {"WindowCenter": 30000, "WindowWidth": 100},
        {"VOILUTSequence": [Dataset()]},
    ],
)
def test_files_without_a_usable_window_fall_back_on_percentiles(tmp_path, elements):
    path = write(tmp_path, RAMP, **elements)
    np.testing.assert_array_equal(decode_uint8(path, window="dicom"), to_uint8(decode(path)))


def test_the_window_never_clips_the_deep_pixels(tmp_path):
    np.testing.assert_array_equal(decode(write(tmp_path, RAMP, WindowCenter=100, WindowWidth=10)), RAMP)


# --- Padding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("padding", "limit"), [(0, None), (4095, None), (4000, 4095), (4095, 4000)])
@pytest.mark.parametrize("window", ["percentile", "dicom"])
def test_padding_is_black_and_has_no_part_in_the_window(tmp_path, photometric, padding, limit, window):
    image = 1000 + smooth(top=999)
    stored = image.copy()
    stored[:, :150] = padding
    stored[:, 140:150] = padding if limit is None else limit
    elements = {"PhotometricInterpretation": photometric, "PixelPaddingValue": padding}
    if limit is not None:
        elements["PixelPaddingRangeLimit"] = limit
    path = write(tmp_path, stored, **elements)
    shown = decode_uint8(path, window=window)
    clean = decode_uint8(write(tmp_path, image[:, 150:], PhotometricInterpretation=photometric), window=window)
    assert (shown[:, :150] == 0).all()
    assert np.abs(shown[:, 150:].astype(int) - clean).max() <= 2
    pixels = decode(write(tmp_path, stored, **elements))
    assert (pixels[:, :150] == pixels[:, 150:].min()).all()


def test_an_image_of_padding_alone_is_black(tmp_path):
    path = write(tmp_path, np.full((20, 30), 77, np.uint16), PixelPaddingValue=77)
    np.testing.assert_array_equal(decode_uint8(path), np.zeros((20, 30)))


def test_padding_of_signed_pixels_written_without_a_sign(tmp_path):
    stored = np.int16(RAMP) - 1000
    stored[:9] = -2000
    data = data_set(stored, bits=16)
    data.add_new("PixelPaddingValue", "US", 65536 - 2000)
    pixels = decode(saved(tmp_path / "a.dcm", data))
    assert (pixels[:9] == stored[9:].min()).all()


# --- Reduced resolution ---------------------------------------------------------------------------------------------


def area(image, shape):
    import cv2

    return cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("kind", ["raw", "j2k12", "j2k16", "j2k8", "jpeg", "rle"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("min_side", "shape"), [(250, (350, 265)), (100, (175, 133)), (600, (700, 530))])
def test_reduced_resolution_equals_the_full_one_averaged(tmp_path, kind, photometric, min_side, shape):
    top = {"j2k16": 65535, "j2k8": 255, "jpeg": 255}.get(kind, 4095)
    image = smooth(top=top)
    image = image.astype(np.uint8) if top == 255 else image
    data = data_set(image, bits=top.bit_length(), PhotometricInterpretation=photometric)
    if kind == "rle":
        data.compress(RLELossless)
    elif kind == "jpeg":
        with_codestream(data, encoded(image, "JPEG", quality=95), JPEGBaseline8Bit)
    elif kind != "raw":
        with_codestream(data, j2k(image), JPEG2000Lossless)
    path = saved(tmp_path / "a.dcm", data)
    small, full = decode_uint8(path, min_side=min_side), decode_uint8(path)
    assert (small.shape, full.shape) == (shape, image.shape)
    expected = area(full, shape)
    assert np.corrcoef(small.ravel(), expected.ravel())[0, 1] > 0.999
    # Low resolutions of JPEG 2000 lie up to half a pixel beside the averages of blocks.
    assert np.abs(small.astype(int) - expected).mean() < 3


def test_compressed_twelve_bits_keep_their_scale_in_reduced_resolution(tmp_path):
    image = smooth()
    path = saved(tmp_path / "a.dcm", with_codestream(data_set(image), j2k(image), JPEG2000Lossless))
    small = read_dicom(path, min_side=100).values
    assert small.shape == (175, 133)
    assert abs(float(small.mean()) - float(image.mean())) < 10


# --- Damage ---------------------------------------------------------------------------------------------------------


def test_codestream_that_disagrees_with_its_header_is_refused(tmp_path):
    for rows, columns in ((65, 64), (9000, 9000)):
        data = with_codestream(data_set(RAMP, Rows=rows, Columns=columns), j2k(RAMP), JPEG2000Lossless)
        with pytest.raises(DecodeError, match="its header says"):
            decode(saved(tmp_path / "a.dcm", data))
    small = np.uint8(RAMP >> 4)
    data = with_codestream(data_set(small, bits=8, Rows=8), encoded(small, "JPEG"), JPEGBaseline8Bit)
    with pytest.raises(DecodeError, match="its header says"):
        decode(saved(tmp_path / "a.dcm", data))


def test_fragment_longer_than_the_file_is_refused(tmp_path):
    data = with_codestream(data_set(RAMP), j2k(RAMP), JPEG2000Lossless)
    path = saved(tmp_path / "a.dcm", data)
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\x4f\xff\x51")
    content[at - 4 : at] = (2**31 - 2).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(DecodeError):
        decode(path)


def test_deflated_bomb_is_refused(tmp_path):
    data = data_set(RAMP)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.add_new(0x00091010, "OB", bytes(410_000_000))
    data.add_new(0x00090010, "LO", "PADDING")
    path = saved(tmp_path / "a.dcm", data)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(DecodeError, match="inflates to more than"):
        decode(path)


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compressed")
    image = smooth(90, 70)
    rle = data_set(image)
    rle.compress(RLELossless)
    small = np.uint8(image >> 4)
    jpeg = with_codestream(data_set(small, bits=8), encoded(small, "JPEG"), JPEGBaseline8Bit)
    lossless = imagecodecs.jpeg8_encode(image, lossless=True, bitspersample=12)
    files = {
        "rle": saved(folder / "rle.dcm", rle),
        "j2k": saved(folder / "j2k.dcm", with_codestream(data_set(image), j2k(image), JPEG2000Lossless)),
        "jpeg": saved(folder / "jpeg.dcm", jpeg),
        "jls": FILES["MR_small_jpeg_ls_lossless.dcm"],
        "jpeg12": FILES["JPEG-lossy.dcm"],
        "lossless": saved(folder / "lossless.dcm", with_codestream(data_set(image), lossless, JPEGLossless)),
    }
    return {name: path.read_bytes() for name, path in files.items()}


@settings(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(["rle", "j2k", "jpeg", "jls", "jpeg12", "lossless"]))
def test_damaged_compressed_files_are_decoded_or_refused(tmp_path_factory, compressed, data, name):
    damaged = bytearray(compressed[name])
    for start in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=5)):
        new = data.draw(st.binary(min_size=1, max_size=4))
        damaged[start : start + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "damaged.dcm"
    path.write_bytes(damaged[: data.draw(st.integers(300, len(damaged)) | st.just(len(damaged)))])
    for min_side in (None, 32):
        try:
            pixels = decode_uint8(path, min_side=min_side, window="dicom")
        except DecodeError:
            continue
        assert (pixels.ndim, pixels.dtype) == (2, np.uint8)


@pytest.mark.parametrize("place", range(132, 180))
def test_damage_to_the_file_meta_is_refused_or_harmless(tmp_path, compressed, place):
    damaged = bytearray(compressed["rle"])
    damaged[place] = 0
    (tmp_path / "a.dcm").write_bytes(damaged)
    with contextlib.suppress(DecodeError):
        assert decode(tmp_path / "a.dcm").shape == (90, 70)


def test_a_full_disk_damages_no_file_that_is_decoded_by_way_of_it(tmp_path):
    noise = np.random.default_rng(0).integers(1, 4096, (400, 400)).astype(np.uint16)
    data = data_set(noise, PixelPaddingValue=0)  # whose pixels are never averaged
    saved(tmp_path / "a.dcm", with_codestream(data, j2k(noise), JPEG2000Lossless))
    Image.fromarray(np.uint8(noise // 16)).save(tmp_path / "b.png")
    manifest, options = Manifest.from_folder(tmp_path), {"size": 64, "cache_dir": tmp_path / ".cache", "max_bad": 0.5}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # as a disk that is full
    try:
        with pytest.raises(DecodeError, match=r"its pixels cannot be written to .* \(File too large\)$") as refused:
            decode(tmp_path / "a.dcm")
        assert CanvasStore.open(manifest, **options).rows.tolist() == [1]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.value.unreachable
    assert CanvasStore.open(manifest, **options).rows.tolist() == [0, 1]


def test_a_damaged_file_is_not_out_of_reach(tmp_path):
    data = data_set(RAMP)
    write(tmp_path, RAMP)
    whole = (tmp_path / "a.dcm").read_bytes()
    for number, content in enumerate((whole[:-100], whole[:200], with_garbage(data))):
        (tmp_path / f"{number}.dcm").write_bytes(content)
        with pytest.raises(DecodeError) as refused:
            decode(tmp_path / f"{number}.dcm")
        assert not refused.value.unreachable


def with_garbage(data):
    """A codestream that is one by its header alone."""
    buffer = io.BytesIO()
    frame = j2k(RAMP)
    with_codestream(data, frame[:150] + bytes(len(frame) - 150), JPEG2000Lossless).save_as(
        buffer, enforce_file_format=True
    )
    return buffer.getvalue()
