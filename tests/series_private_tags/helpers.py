# SPDX-License-Identifier: AGPL-3.0-or-later
"""Series with private tags, and what an Orthanc lists of them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from testing.dicom import make_study
from testing.server import OrthancServer

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "series_private_tags.py"
SYNTAXES = {
    "explicit": "1.2.840.10008.1.2.1",
    "implicit": "1.2.840.10008.1.2",
    "big endian": "1.2.840.10008.1.2.2",
    "deflated": "1.2.840.10008.1.2.1.99",
}
DICTIONARY = {
    "0029,1010": ["DS", "Factor", 1, 9, "ACME"],
    "0029,1011": ["LO", "Label", 1, 1, "ACME"],
    "7053,1003": ["FD", "Ratio", 1, 9, "PHIL"],
    "0033,1020": ["LO", "Anonymous", 1, 1],
}
TAGS = ["Factor", "!!Label", "Ratio", "Anonymous", "0029,xx12:ACME", "0029,xx16:ACME", "0029,xx15:ACME", "0031,1001"]
LISTED = {"Dictionary": DICTIONARY, "SeriesMainPrivateDicomTags": TAGS, "UserMetadata": {"SeriesPrivateTags": 1025}}


def private(dataset: Dataset, block: int = 0x10) -> None:
    """Private tags of two creators, in whatever block, of many VRs."""
    other = dataset.private_block(0x29, "OTHER", create=True)  # the first block is somebody else's
    other.add_new(0x10, "LO", "not this one")
    for _ in range(block - 0x11):
        dataset.add_new((0x29 << 16) + _ + 0x11, "LO", f"FILLER {_}")
    acme = dataset.private_block(0x29, "ACME", create=True)
    acme.add_new(0x10, "DS", ["1.50", "2"])
    acme.add_new(0x11, "LO", "a label")
    acme.add_new(0x12, "UN", b"\x00\x01\x02\xff")
    acme.add_new(0x15, "LT", "long " * 2000)
    first, second, code = Dataset(), Dataset(), Dataset()
    code.CodeValue = "c"
    first.PatientName, first.ConceptNameCodeSequence, second.SeriesDescription = "A^B", [code], "second"
    acme.add_new(0x16, "SQ", [first, second])
    dataset.private_block(0x7053, "PHIL", create=True).add_new(0x03, "FD", [0.1, 2.5])
    dataset.add_new(0x00330010, "LO", "")
    dataset.add_new(0x00331020, "LO", "without a creator")
    dataset.add_new(0x00310010, "LO", "WHOEVER")
    dataset.add_new(0x00311001, "LO", "by its number")


def encoded(dataset: Dataset, syntax: str) -> bytes:
    dataset.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
    for element in dataset.iterall():
        if element.VR == "OW" and syntax == "big endian":
            element.value = b"".join(element.value[i : i + 2][::-1] for i in range(0, len(element.value), 2))
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, implicit_vr=syntax == "implicit", little_endian=syntax != "big endian",
                     enforce_file_format=True)  # fmt: skip
    return buffer.getvalue()


def study(syntax: str = "explicit", *, block: int = 0x11, **arguments: Any) -> list[bytes]:
    """A study whose images have private tags."""
    files = []
    for content in make_study(**arguments):
        dataset = pydicom.dcmread(io.BytesIO(content))
        private(dataset, block)
        files.append(encoded(dataset, syntax))
    return files


EXPECTED: dict[str, Any] = {
    "Factor": "1.50\\2",
    "Label": "EXISTS",
    "Ratio": "0.10000000000000001\\2.5",
    "Anonymous": "without a creator",
    "0029,xx12:ACME": f"4 bytes, SHA-256 {hashlib.sha256(bytes([0, 1, 2, 255])).hexdigest()}",
    "0029,xx16:ACME": [
        {"PatientName": "A^B", "ConceptNameCodeSequence": [{"CodeValue": "c"}]},
        {"SeriesDescription": "second"},
    ],
    "0029,xx15:ACME": f"{('long ' * 2000)[:4096]}… (cut, of 9999 characters)",
    "0031,1001": "by its number",
}


def values(server: OrthancServer, series: str) -> Any:
    return server.get(f"/with-private-tags/series/{series}")["MainPrivateDicomTags"]


def wait_for(server: OrthancServer, series: str, expected: Any) -> None:
    path = f"/with-private-tags/series/{series}"

    def is_there() -> bool:
        answer = server.request("GET", path)  # 404 for a moment after C-STORE
        return answer.ok and answer.json()["MainPrivateDicomTags"] == expected

    server.wait_until(is_there, what=f"{expected} of {series}")


def wait_until_caught_up(server: OrthancServer) -> dict[str, Any]:
    def done() -> dict[str, Any] | None:
        status: dict[str, Any] = server.get("/with-private-tags/status")
        return status if not status["CatchUp"]["Running"] and not status["Arriving"] else None

    return dict(server.wait_until(done))
