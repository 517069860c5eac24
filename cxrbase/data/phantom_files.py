"""Writes a phantom's images quickly in the formats of real archives."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrbase.data.phantom_shapes import Floats

_SUFFIX = {"jpeg": ".jpg", "png16": ".png", "monochrome1": ".dcm", "monochrome2": ".dcm"}


def write_image(pixels: Floats, root: Path, stem: str, form: str, patient_id: str, view: str) -> str:
    """Writes an image and returns its path relative to the folder.

    Args:
        pixels: Brightness in 0..1 with bone bright, shape (height, width).
        root: Folder of the data set.
        stem: Path in the folder without the suffix.
        form: "jpeg" with 8 bits, "png16", or "monochrome1" or "monochrome2" for DICOM with 12 bits.
        patient_id: Whose image it is.
        view: "PA", "AP" or "LATERAL".
    """
    name = stem + _SUFFIX[form]
    if form == "jpeg":
        Image.fromarray(_levels(pixels, 255).astype(np.uint8)).save(root / name, quality=95)
    elif form == "png16":
        (root / name).write_bytes(_png(_levels(pixels, 65535)))
    else:
        twelve = _levels(pixels, 4095)
        stored = 4095 - twelve if form == "monochrome1" else twelve
        (root / name).write_bytes(_dicom(stored, Path(name).name, form.upper(), patient_id, view))
    return name


def _levels(pixels: Floats, top: int) -> NDArray[np.uint16]:
    levels: NDArray[np.uint16] = np.rint(pixels * np.float32(top)).astype(np.uint16)
    return levels


def _png(stored: NDArray[np.uint16]) -> bytes:
    """PNG of 16 bits; Pillow would take five times as long."""
    import cv2

    done, packed = cv2.imencode(".png", stored)
    assert done
    return packed.tobytes()


def _dicom(stored: NDArray[np.uint16], name: str, polarity: str, patient_id: str, view: str) -> bytes:
    """DICOM of 12 bits; all that pydicom writes is written once, and then differs in two names of known length."""
    from pydicom.uid import generate_uid

    uid = str(generate_uid(entropy_srcs=[name]))
    blanks = "?" * len(patient_id), "1" * len(uid)
    header = _header(stored.shape, polarity, "LL" if view == "LATERAL" else view, *blanks)
    for blank, text in zip(blanks, (patient_id, uid), strict=True):
        header = header.replace(blank.encode(), text.encode())
    return header + stored.astype("<u2").tobytes()


@cache
def _header(shape: tuple[int, int], polarity: str, view: str, patient_id: str, uid: str) -> bytes:
    """A DICOM file up to its pixels."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = Dataset()
    image.file_meta = meta
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.PatientID, image.Modality, image.ViewPosition = patient_id, "DX", view
    image.Rows, image.Columns = shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, polarity
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PixelData = bytes(2 * shape[0] * shape[1])
    file = BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()[: -len(image.PixelData)]
