# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pixels as Orthanc gives them, and pictures of those that it can't render. Without NumPy; pictures need Pillow."""

from __future__ import annotations

import array
import ast
import io
from typing import Any, NamedTuple

from .icons import encoded
from .options import RenderOptions

CODES_OF_NPY = {"|u1": "B", "<u1": "B", "|i1": "b", "<i1": "b", "<u2": "H", "<i2": "h", "<f4": "f"}
RLE, BIG_ENDIAN = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.2"
FLAT = 8  # standard deviation of the greys of a picture, of 255
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")


def values_of_npy(content: bytes) -> array.array[Any] | None:
    """Return the values of one frame as Orthanc's `/numpy` gives them (NPY, version 1); None if they are no greys."""
    start = 10 + int.from_bytes(content[8:10], "little")
    header = ast.literal_eval(content[10:start].decode("latin-1"))
    code = CODES_OF_NPY.get(header["descr"])
    return array.array(code, content[start:]) if code and header["shape"][-1] == 1 else None


def image_of_values(data: bytes, rows: int, columns: int, form: str) -> Any:
    """Return values as an image of Pillow, in floats; None if there are not enough. Raises `ImportError` without Pillow."""
    from PIL import Image

    size = rows * columns * int("".join(filter(str.isdigit, form))) // 8
    return Image.frombytes("F", (columns, rows), data[:size], "raw", form) if len(data) >= size else None


def native_frame(frame: bytes, syntax: str, form: str) -> tuple[bytes, str]:
    """Return the values of a frame of 32 bits, as Orthanc's `/raw` gives it, and how Pillow names them; empty if unreadable."""
    if syntax in NATIVE:
        return frame, form
    big_endian = f"F;32B{form[4:]}"
    if syntax == RLE:
        return unpacked_rle(frame, 4), big_endian
    if syntax == BIG_ENDIAN:  # Orthanc swaps it as words of 16 bits
        words = array.array("H", frame[: len(frame) // 2 * 2])
        words.byteswap()
        return words.tobytes(), big_endian
    return b"", form


def unpacked_rle(frame: bytes, bytes_per_value: int) -> bytes:
    """Return the values of an RLE frame, each in big endian (DICOM PS3.5 Annex G); of a broken one fewer, or none."""
    if int.from_bytes(frame[:4], "little") != bytes_per_value:
        return b""
    starts = [int.from_bytes(frame[at : at + 4], "little") for at in range(4, 4 * bytes_per_value + 4, 4)]
    planes = [_unpacked(frame[a:b]) for a, b in zip(starts, [*starts[1:], len(frame)], strict=True)]
    count = min(map(len, planes))
    values = bytearray(bytes_per_value * count)
    for index, plane in enumerate(planes):
        values[index::bytes_per_value] = plane[:count]
    return bytes(values)


def _unpacked(segment: bytes) -> bytes:
    plane, at = bytearray(), 0
    while at < len(segment) - 1:
        control = segment[at]
        if control < 128:
            plane += segment[at + 1 : at + 2 + control]
            at += 2 + control
        elif control > 128:
            plane += segment[at + 1 : at + 2] * (257 - control)
            at += 2
        else:
            at += 1
    return bytes(plane)


def samples(image: Any, most: int) -> array.array[Any]:
    """Return values of an image of floats, of both directions alike, at most about `most`."""
    step = max(1.0, (image.width * image.height / most) ** 0.5)
    few = image.resize((max(1, int(image.width / step)), max(1, int(image.height / step))), 0)
    return array.array("f", few.tobytes())


def shown(image: Any, low: float, high: float, is_inverted: bool) -> Any:
    """Return an image of floats in greys, `low` black and `high` white."""
    black, white = (255.0, 0.0) if is_inverted else (0.0, 255.0)
    scale = (white - black) / (high - low)
    offset = black - low * scale
    return image.point(lambda value: value * scale + offset).convert("L")


def image_of_pam(content: bytes) -> Any:
    """Return an image of 8 bits as Orthanc gives it (PAM) as one of Pillow. Raises `ImportError` without Pillow."""
    from PIL import Image

    head, _, data = content.partition(b"ENDHDR\n")
    fields = dict(line.split(None, 1) for line in head.splitlines() if b" " in line)
    mode = "L" if int(fields[b"DEPTH"]) == 1 else "RGB"
    return Image.frombytes(mode, (int(fields[b"WIDTH"]), int(fields[b"HEIGHT"])), data)


class Drawing(NamedTuple):
    """A picture as a file, and the standard deviation of its values if it is known."""

    content: bytes
    deviation: float | None = None


def resized(image: Any, width: int, height: int, options: RenderOptions) -> Drawing:
    """Return a picture of an image of Pillow; where it shrinks, each pixel is a mean."""
    from PIL import Image, ImageStat

    shrinks = width <= image.width and height <= image.height
    how = Image.Resampling.BOX if shrinks else Image.Resampling.LANCZOS
    image = image.resize((width, height), how, reducing_gap=1.0)  # by a whole number first: a quarter of the time
    return Drawing(encoded(image, options), max(ImageStat.Stat(image).stddev))


def is_flat(drawing: Drawing) -> bool:
    """Return whether next to nothing can be seen in a picture. Raises `ImportError` without Pillow."""
    from PIL import Image, ImageStat

    deviation = drawing.deviation
    if deviation is None:
        deviation = max(ImageStat.Stat(Image.open(io.BytesIO(drawing.content))).stddev)
    return deviation < FLAT


def has_pillow() -> bool:
    """Return whether pictures can be drawn here."""
    try:
        import PIL.Image  # noqa: F401 - one that is there may still be unusable
    except ImportError:
        return False
    return True
