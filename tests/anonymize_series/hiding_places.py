# SPDX-License-Identifier: AGPL-3.0-or-later
"""Images with a name in a place where it is easily forgotten, and a look for names in every place of a file."""

from __future__ import annotations

import functools
import io
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
import pydicom.data
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from testing.dicom import make_study, part10_files, uid

NAME, WORDS = "Hidenberg^Quillon", ("Hidenberg", "Quillon")
FOUND = b"\1\2 by Hidenberg, Quillon, "  # as bytes of something else; of even length
CODECS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "shift_jis", "iso2022_jp", "euc_kr", "iso2022_kr", "gb18030")
JPEG_BASELINE, JPEG_2000, JPEG_LS, RLE = (f"1.2.840.10008.1.2.{end}" for end in ("4.50", "4.91", "4.80", "5"))
GONE = None


class Place(NamedTuple):
    """A place: what puts a name there, and what becomes of it, by recipe.

    Attributes
    ----------
    put : changes a data set; or returns the file to be stored.
    reason : with which the image is held back; None: it goes, without the name.
    private : the same, where the recipe keeps private tags.
    words : of the name; each must be gone.
    """

    put: Callable[[Any], bytes | None]
    reason: str | None = GONE
    private: str | None = GONE
    words: tuple[str, ...] = WORDS


def image(place: Place) -> bytes:
    """Return an image with a name in a place, and in PatientName."""
    files = []

    def change(dataset: Dataset) -> None:
        dataset.PatientName = NAME
        if content := place.put(dataset):
            files.append(content)

    [made] = make_study(patient_id=f"HIDING {uid(NAMES_OF[id(place)])[-12:]}", change=change, BitsStored=12, HighBit=11,
                        PixelData=bytes(64 * 64 * 2), BurnedInAnnotation="NO")  # fmt: skip
    return files[0] if files else made


# Where: in the data set


def tags(**values: Any) -> Callable[[Dataset], None]:
    """Return what sets elements, by keyword."""

    def put(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return put


def raw(tag: int, vr: str, value: bytes | str = FOUND) -> Callable[[Dataset], None]:
    return lambda dataset: dataset.add_new(tag, vr, value)


def item(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def named(charset: str, name: str, **values: str) -> Callable[[Dataset], None]:
    """Return what gives a patient a name in another character set, and repeats it elsewhere."""
    return tags(SpecificCharacterSet=charset.split("\\"), PatientName=name, **values)


def private(vr: str, value: Any) -> Callable[[Dataset], None]:
    return lambda dataset: dataset.private_block(0x29, "ACME", create=True).add_new(0x10, vr, value)


def put_icon(dataset: Dataset) -> None:
    icon = item(Rows=8, Columns=8, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", BitsAllocated=8,
                BitsStored=8, HighBit=7, PixelRepresentation=0)  # fmt: skip
    icon.add_new(0x7FE00010, "OB", FOUND.ljust(64, b"\0"))
    dataset.IconImageSequence = [icon]


def put_preamble(dataset: Dataset) -> bytes:
    return FOUND.ljust(128, b"\0") + next(part10_files(dataset))[128:]


def put_file_meta(dataset: Dataset) -> None:
    dataset.file_meta.SourceApplicationEntityTitle = "HIDENBERG"
    dataset.file_meta.PrivateInformationCreatorUID, dataset.file_meta.PrivateInformation = uid("creator"), FOUND


def put_latin_1(dataset: Dataset) -> None:
    dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "Müllerström^Jörgen"
    private("UN", b"\1\2" + "by MÜLLERSTRÖM ".encode("latin-1"))(dataset)


# Where: in the pixel data


def compressed(syntax: str, frame: bytes, **values: Any) -> Callable[[Dataset], None]:
    """Return what gives an image frames of 8 bits."""

    def put(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.add_new(0x7FE00010, "OB", encapsulate([frame]))
        dataset["PixelData"].is_undefined_length = True

    return put


def picture() -> Image.Image:
    return Image.frombytes("L", (64, 64), bytes((3 * x) ^ (2 * y) for y in range(64) for x in range(64)))


@functools.cache
def encoded(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(code: int, content: bytes = FOUND) -> bytes:
    """Return a JPEG frame with a segment more."""
    return b"\xff\xd8" + segment(code, content) + encoded("JPEG")[2:]


def segment(code: int, content: bytes) -> bytes:
    return bytes((0xFF, code)) + (len(content) + 2).to_bytes(2, "big") + content


def jpeg_2000(content: bytes = FOUND) -> bytes:
    """Return a codestream with a comment more, behind its first segment (SIZ)."""
    frame = encoded("JPEG2000", no_jp2=True)
    at = 4 + int.from_bytes(frame[4:6], "big")
    return frame[:at] + segment(0x64, b"\0\1" + content) + frame[at:]


def jp2(content: bytes = FOUND) -> bytes:
    """Return a JP2 file with a box of text."""
    frame = encoded("JPEG2000")
    at = frame.index(b"jp2c") - 4
    return frame[:at] + (8 + len(content)).to_bytes(4, "big") + b"xml " + content + frame[at:]


def put_in_jpeg_ls(dataset: Dataset) -> None:
    folder = Path(pydicom.data.__file__).parent / "test_files"
    other = pydicom.dcmread(folder / "MR_small_jpeg_ls_lossless.dcm")
    frame = next(generate_frames(other.PixelData, number_of_frames=1))
    at = {
        keyword: other[keyword].value for keyword in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    }
    frame = frame[:2] + segment(0xFE, FOUND) + frame[2:]
    compressed(JPEG_LS, frame, Rows=64, Columns=64, **at)(dataset)


def rle(pixels: bytes, tail: bytes = b"") -> bytes:
    """Return a frame of one segment."""
    runs = b"".join(bytes((len(part) - 1,)) + part for part in map(bytes, batches(pixels, 128)))
    frame = b"".join(number.to_bytes(4, "little") for number in (1, 64, *[0] * 14)) + runs + tail
    return frame + b"\0" * (len(frame) % 2)


def batches(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def put_in_fragments(dataset: Dataset) -> None:
    """A comment that begins in one fragment and ends in the next, of the second of two frames."""
    frames = [jpeg(0xFE, b"nothing "), jpeg(0xFE)]
    compressed(JPEG_BASELINE, b"\0\0", NumberOfFrames="2")(dataset)
    dataset.PixelData = encapsulate(frames, fragments_per_frame=8)


def put_in_offsets(dataset: Dataset) -> None:
    """Bytes of the table of offsets of a single frame."""
    compressed(JPEG_BASELINE, encoded("JPEG"))(dataset)
    table = FOUND.ljust(28, b" ")
    assert dataset.PixelData[:8] == b"\xfe\xff\0\xe0\4\0\0\0"
    dataset.PixelData = b"\xfe\xff\0\xe0" + len(table).to_bytes(4, "little") + table + dataset.PixelData[12:]


def put_in_unused_bits(dataset: Dataset) -> None:
    """Four bits of the name above each pixel of 12 bits."""
    nibbles = [nibble for byte in FOUND for nibble in (byte & 15, byte >> 4)]
    dataset.PixelData = native(nibbles, 12)


def put_overlay(dataset: Dataset, bits: int = 12) -> None:
    """A retired overlay, in bit 12: the name bit by bit, as a picture of it would be."""
    plane = [byte >> bit & 1 for byte in FOUND for bit in range(8)]
    dataset.PixelData = native(plane, 12)
    for element, vr, value in ((0x10, "US", 64), (0x11, "US", 64), (0x40, "CS", "G"), (0x50, "SS", [1, 1]),
                               (0x100, "US", 16), (0x102, "US", bits)):  # fmt: skip
        dataset.add_new(0x60000000 | element, vr, value)


def put_overlay_and_compress(dataset: Dataset) -> None:
    put_overlay(dataset)
    pixels = dataset.PixelData
    dataset.file_meta.TransferSyntaxUID = RLE
    planes = [pixels[1::2], pixels[::2]]
    frames = [rle(plane)[64:] for plane in planes]
    header = (2, 64, 64 + len(frames[0]), *[0] * 13)
    dataset.PixelData = encapsulate([b"".join(each.to_bytes(4, "little") for each in header) + b"".join(frames)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def native(unused: list[int], at: int) -> bytes:
    """Return 64 x 64 pixels of 12 bits, with something above."""
    pixels = [(7 * number) & 0xFFF for number in range(64 * 64)]
    above = itertools.chain(unused, itertools.repeat(0))
    return b"".join((pixel | more << at).to_bytes(2, "little") for pixel, more in zip(pixels, above, strict=False))


def behind_the_pixels(dataset: Dataset) -> None:
    dataset.PixelData += FOUND


SQ_OF_ORIGINAL = item(
    ModifiedAttributesSequence=[item(PatientName=NAME, OtherPatientIDs="HIDENBERG")],
    SourceOfPreviousValues="Hidenberg",
    ModifyingSystem="SYSTEM",
    ReasonForTheAttributeModification="CORRECT",
    AttributeModificationDateTime="20240102",
)
DEEP = item(PurposeOfReferenceCodeSequence=[item(CodeMeaning="of Quillon Hidenberg")], ReferencedSOPClassUID="1.2.3")
TEXT = item(ValueType="TEXT", TextValue="Seen: Quillon Hidenberg", RelationshipType="CONTAINS")
HOLDS = "of the original"
PLACES: dict[str, Place] = {
    # that held
    "icon image": Place(put_icon),
    "trailing padding": Place(raw(0xFFFCFFFC, "OB")),
    "preamble": Place(put_preamble),
    "file meta information": Place(put_file_meta),
    "OriginalAttributesSequence": Place(tags(OriginalAttributesSequence=[SQ_OF_ORIGINAL])),
    "OtherPatientIDs": Place(tags(OtherPatientIDs=["HIDENBERG-1", "QUILLON-2"])),
    "OtherPatientNames": Place(tags(OtherPatientNames=[NAME, "Other^Name"])),
    "private UN": Place(private("UN", FOUND), GONE, HOLDS),
    "private SQ": Place(private("SQ", [item(PatientName=NAME, TextValue="Hidenberg")]), GONE, HOLDS),
    "private LO": Place(private("LO", "for Quillon"), GONE, HOLDS),
    "private element without a creator": Place(raw(0x00311001, "UN"), GONE, HOLDS),
    "curves": Place(raw(0x50003000, "OW")),
    "overlay": Place(raw(0x60003000, "OW")),
    "comment of an overlay": Place(raw(0x60004000, "LT", "of Hidenberg")),
    "palette bytes": Place(raw(0x00281201, "OW"), HOLDS, HOLDS),
    "colour profile": Place(tags(ICCProfile=FOUND), HOLDS, HOLDS),
    "URL": Place(tags(RetrieveURL="http://pacs/hidenberg?quillon"), HOLDS, HOLDS),
    "URL of the pixels": Place(tags(PixelDataProviderURL="http://pacs/Hidenberg"), HOLDS, HOLDS),
    "free text": Place(tags(ImageComments="of Quillon", AdditionalPatientHistory="HIDENBERG is well")),
    "defined text of the image": Place(tags(FilterType="Hidenberg"), HOLDS, HOLDS),
    "RequestAttributesSequence": Place(
        tags(RequestAttributesSequence=[item(RequestedProcedureDescription="Head of Hidenberg")])
    ),
    "code in a sequence of a sequence": Place(tags(AnatomicRegionSequence=[DEEP]), HOLDS, HOLDS),
    "text of a report in an image": Place(tags(ContentSequence=[TEXT])),
    "certificate": Place(tags(DigitalSignaturesSequence=[item(CertificateOfSigner=FOUND)])),
    "encapsulated document": Place(tags(EncapsulatedDocument=FOUND)),
    "umlauts": Place(
        named("ISO_IR 100", "Müllerström^Jörgen", FilterType="MÜLLERSTRÖM"), HOLDS, HOLDS, ("Müllerström", "Jörgen")
    ),
    "Japanese": Place(
        named("\\ISO 2022 IR 87", "Yamada^Tarou=山田長政^太郎左衛", ImageComments="山田長政"), GONE, GONE,
        ("Yamada", "山田長政", "太郎左衛"),
    ),
    "Korean": Place(
        named("\\ISO 2022 IR 149", "Namgung^Heejung=남궁미르^희중미르", ImageComments="남궁미르"), GONE, GONE,
        ("Namgung", "남궁미르", "희중미르"),
    ),
    # that failed
    "JPEG comment": Place(compressed(JPEG_BASELINE, jpeg(0xFE))),
    "JPEG application segment": Place(compressed(JPEG_BASELINE, jpeg(0xE1, b"Exif\0\0" + FOUND))),
    "bytes behind the last pixel": Place(behind_the_pixels),
    "bits above HighBit": Place(put_in_unused_bits),
    "retired overlay in unused bits": Place(put_overlay),
    "Latin-1 in a private UN": Place(put_latin_1, GONE, HOLDS, ("Müllerström", "Jörgen")),
    "name of two and three characters": Place(
        tags(PatientName="Lü^Kim", FilterType="KIM"), "holds a short name", "holds a short name", ("Kim", "KIM")
    ),
    "name of two and three characters in Chinese": Place(
        named("GB18030", "Wang^XiaoDong=王^小东", FilterType="王小东"), "holds a short name", "holds a short name", ("王小东",)
    ),
    # others in pixel data
    "JPEG comment over two fragments": Place(put_in_fragments),
    "behind the end of a JPEG": Place(compressed(JPEG_BASELINE, encoded("JPEG") + FOUND)),
    "table of offsets": Place(put_in_offsets),
    "JPEG 2000 comment": Place(compressed(JPEG_2000, jpeg_2000())),
    "box of a JP2 file": Place(compressed(JPEG_2000, jp2())),
    "JPEG-LS comment": Place(put_in_jpeg_ls),
    "behind the pixels of RLE": Place(compressed(RLE, rle(picture().tobytes(), FOUND))),
    "retired overlay in compressed bits": Place(put_overlay_and_compress, "PixelData may hold", "PixelData may hold"),
}  # fmt: skip
NAMES_OF = {id(place): name for name, place in PLACES.items()}


# The look


def words_in(content: bytes, words: tuple[str, ...]) -> list[str]:
    """Return the words that are anywhere in a file: in its bytes, in its frames, and in unused bits of its pixels."""
    haystacks = [content.lower(), *(each.lower() for each in _of_pixels(pydicom.dcmread(io.BytesIO(content))))]
    return [word for word in words if any(_is_in(word, haystack) for haystack in haystacks)]


def _is_in(word: str, haystack: bytes) -> bool:
    cases = {case for each in (word, word.lower(), word.upper()) for case in (each, each.title())}
    needles = {case.encode(codec, "ignore").lower() for case in cases for codec in CODECS}
    return any(
        needle in haystack if len(needle) > 4 else re.search(rb"(?<![a-z0-9])" + re.escape(needle), haystack)
        for needle in needles
        if len(needle) > 2
    )


def _of_pixels(dataset: Any) -> Iterator[bytes]:
    """Yield the frames; and the bits of native pixels, by planes and by fours, in both orders."""
    value: bytes = dataset.get("PixelData") or b""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from generate_frames(value, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
        return
    pixels = [int.from_bytes(each, "little") for each in batches(value, 2)]
    for bit in range(16):
        plane = [pixel >> bit & 1 for pixel in pixels]
        yield _packed(plane, 1)
        yield _packed(plane[::-1], 1)[::-1]
    for bit in range(0, 16, 4):
        fours = [pixel >> bit & 15 for pixel in pixels]
        yield _packed(fours, 4)
        yield _packed(fours[::-1], 4)[::-1]


def _packed(parts: list[int], bits: int) -> bytes:
    """Return parts of bytes as bytes, the lowest first."""
    each = 8 // bits
    return bytes(
        sum(part << bits * place for place, part in enumerate(parts[start : start + each]))
        for start in range(0, len(parts) - each + 1, each)
    )
