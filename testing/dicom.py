# SPDX-License-Identifier: AGPL-3.0-or-later
"""DICOM to test with: the files that the `pydicom` package carries, and generated studies."""

from __future__ import annotations

import functools
import hashlib
import io
import random
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pydicom
import pydicom.data
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

One: TypeAlias = Path | str | bytes | Dataset
Storable: TypeAlias = One | Iterable[One]

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "OT": "1.2.840.10008.5.1.4.1.1.7",
}
LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})  # PS3.5 7.1.2


def orthanc_identifier(*values: str) -> str:
    """Orthanc's identifier of a patient from its PatientID; of what is below, from that and the UIDs down to it.

    >>> orthanc_identifier("PATIENT")
    '31dd36e5-b4f31a4b-fce3ea31-2e81ef92-ff07ed5d'
    """
    patient, *uids = values  # in front of a PatientID, Orthanc keeps spaces
    digest = hashlib.sha1("|".join((patient.rstrip(), *(each.strip() for each in uids))).encode()).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


def uid(*seeds: object) -> str:
    """A UID made from anything, the same each time, always of 44 characters (PS3.5 B.2: 2.25 and a UUID in decimal)."""
    number = int.from_bytes(hashlib.sha256(repr(seeds).encode()).digest())
    return f"2.25.{10**38 + number % (2 * 10**38)}"


@functools.cache
def pydicom_files(*, cstore: bool = True) -> list[Path]:
    """Those of pydicom's own test files that an Orthanc stores, of the installed package; nothing is downloaded.

    Left out by rule: no preamble (PS3.10 7.1), no parseable content, a UID missing, a media directory (DICOMDIR), a VR
    encoding that is not the one of the transfer syntax, and the files cut short, which pydicom names `…truncated`. With
    `cstore`, also those whose SOP UIDs have the VR UN: dcmtk can't read them, so Orthanc takes them by HTTP only.
    """
    folder = Path(pydicom.data.__file__).parent / "test_files"
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and _is_storable(path, cstore)]


def _is_storable(path: Path, cstore: bool) -> bool:
    content = path.read_bytes()
    if content[128:132] != b"DICM" or path.stem.endswith("truncated"):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="Expected (explicit|implicit) VR")
            dataset = pydicom.dcmread(io.BytesIO(content))
            unknown = dataset.get_item("SOPInstanceUID").VR == "UN"
            uids = [str(dataset.get(f"{level}InstanceUID") or "") for level in ("Study", "Series", "SOP")]
    except Exception:  # noqa: BLE001 (broken on purpose, each in its own way)
        return False
    return all(uids) and not (cstore and unknown)


def part10_files(files: Storable) -> Iterator[bytes]:
    """The bytes of each: of a path the file's, of a dataset what pydicom writes, bytes as they are."""
    each: Any
    for each in [files] if isinstance(files, Path | str | bytes | Dataset) else files:
        if isinstance(each, bytes):
            yield each
        elif isinstance(each, Path | str):
            yield Path(each).read_bytes()
        else:
            buffer = io.BytesIO()
            each.save_as(buffer, enforce_file_format=True)
            yield buffer.getvalue()


def make_study(
    *,
    patient_id: str = "PATIENT",
    series: int = 1,
    instances: int = 1,
    rows: int = 64,
    columns: int = 64,
    study_date: str = "20240101",
    modality: str = "CT",
    seed: object = 0,
    change: Callable[[Dataset], object] | None = None,
    **tags: str | int | float | bytes,
) -> list[bytes]:
    """The Part 10 files of one study with `series` series of `instances` images each, in that order.

    Parameters
    ----------
    rows, columns
        Of each image, 16 bits a pixel, unsigned; the pixels differ in each.
    study_date
        DICOM DA (YYYYMMDD); also of the series and the images. As given, valid or not.
    modality
        CT, MR, CR, US or OT.
    seed
        With `patient_id`, it decides all UIDs: another seed gives another study, the same one the same bytes.
    change
        Called with each dataset before it is written, for what `tags` can't say (sequences, private tags); 2 ms each.
    tags
        More elements, or other values, by DICOM keyword: `AccessionNumber="A1"`, `StudyInstanceUID="1.2.3"`.

    Returns
    -------
    One `bytes` per image, Explicit VR Little Endian, UTF-8; about 0.1 ms each for 64x64.
    """
    if modality not in SOP_CLASSES:
        raise ValueError(f"modality {modality!r}: one of {', '.join(SOP_CLASSES)}")
    study_uid = str(tags.get("StudyInstanceUID") or uid(seed, patient_id))
    files = []
    for series_number in range(1, series + 1):
        series_uid = str(tags.get("SeriesInstanceUID") or uid(study_uid, series_number))
        for number in range(1, instances + 1):
            elements: dict[str, str | int | float | bytes] = {
                "SpecificCharacterSet": "ISO_IR 192",
                "ImageType": "ORIGINAL\\PRIMARY\\AXIAL",
                "SOPClassUID": SOP_CLASSES[modality],
                "SOPInstanceUID": uid(series_uid, number),
                "StudyDate": study_date,
                "SeriesDate": study_date,
                "ContentDate": study_date,
                "StudyTime": "120000",
                "ContentTime": "120000",
                "AccessionNumber": "",
                "Modality": modality,
                "Manufacturer": "Generated",
                "ReferringPhysicianName": "",
                "StudyDescription": "Generated study",
                "SeriesDescription": f"Series {series_number}",
                "PatientName": f"Test^{patient_id}",
                "PatientID": patient_id,
                "PatientBirthDate": "19700101",
                "PatientSex": "O",
                "SliceThickness": "1",
                "KVP": "120" if modality == "CT" else "",
                "StudyInstanceUID": study_uid,
                "SeriesInstanceUID": series_uid,
                "StudyID": "1",
                "SeriesNumber": str(series_number),
                "InstanceNumber": str(number),
                "ImagePositionPatient": f"0\\0\\{number}",
                "ImageOrientationPatient": "1\\0\\0\\0\\1\\0",
                "FrameOfReferenceUID": uid(study_uid, "frame of reference"),
                "PositionReferenceIndicator": "",
                "SamplesPerPixel": 1,
                "PhotometricInterpretation": "MONOCHROME2",
                "Rows": rows,
                "Columns": columns,
                "PixelSpacing": "1\\1",
                "BitsAllocated": 16,
                "BitsStored": 16,
                "HighBit": 15,
                "PixelRepresentation": 0,
                "WindowCenter": "32768",
                "WindowWidth": "65536",
                "RescaleIntercept": "0",
                "RescaleSlope": "1",
                **tags,
            }
            pixels = random.Random(str(elements["SOPInstanceUID"])).randbytes(rows * columns * 2)
            elements.setdefault("PixelData", pixels)
            files.append(_part10(elements, change))
    return files


def _part10(elements: dict[str, str | int | float | bytes], change: Callable[[Dataset], object] | None) -> bytes:
    """A DICOM file: preamble, file meta information (PS3.10 7.1) and the elements in the order of their tags."""
    meta = b"".join(
        _element(keyword, value)
        for keyword, value in (
            ("FileMetaInformationVersion", b"\0\1"),
            ("MediaStorageSOPClassUID", elements["SOPClassUID"]),
            ("MediaStorageSOPInstanceUID", elements["SOPInstanceUID"]),
            ("TransferSyntaxUID", EXPLICIT_LITTLE_ENDIAN),
            ("ImplementationClassUID", uid("testing.dicom")),
        )
    )
    body = b"".join(_element(keyword, elements[keyword]) for keyword in sorted(elements, key=_tag))
    content = b"\0" * 128 + b"DICM" + _element("FileMetaInformationGroupLength", len(meta)) + meta + body
    if change is None:
        return content
    dataset = pydicom.dcmread(io.BytesIO(content))
    change(dataset)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    return next(part10_files(dataset))


@functools.cache
def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword!r} is no DICOM keyword")
    return int(tag)


@functools.cache
def _header(keyword: str) -> tuple[bytes, str, str]:
    """Tag and VR as they are written, the VR, and how `struct` writes its length."""
    tag = _tag(keyword)
    vr = {"OB or OW": "OW", "US or SS": "US"}.get(dictionary_VR(tag), dictionary_VR(tag))
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    return (head + b"\0\0", vr, "<I") if vr in LONG_VRS else (head, vr, "<H")


def _element(keyword: str, value: str | int | float | bytes) -> bytes:
    """One element in Explicit VR Little Endian (PS3.5 7.1.2), padded to an even length (PS3.5 6.2)."""
    head, vr, length = _header(keyword)
    if vr in BINARY and not isinstance(value, bytes):
        content = struct.pack(BINARY[vr], value)
    else:
        content = value if isinstance(value, bytes) else str(value).encode()
    if len(content) % 2:
        content += b"\0" if vr in ("UI", "OB", "OW", "UN") else b" "
    return head + struct.pack(length, len(content)) + content


BINARY = {"US": "<H", "SS": "<h", "UL": "<I", "SL": "<i", "FL": "<f", "FD": "<d"}
