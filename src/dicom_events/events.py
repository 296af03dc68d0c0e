# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an event says, and the forms in which it is published. Nothing here talks to Orthanc."""

from __future__ import annotations

import dataclasses
import datetime
import json
import struct
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from common.identifiers import PLURAL, UID_TAG_OF
from common.times import utc

quoted = json.encoder.encode_basestring_ascii  # a text as JSON, in a tenth of the time that json.dumps takes
LEVELS = tuple(PLURAL)
LOWER = tuple(level.lower() for level in LEVELS)
IDENTIFIERS = tuple(UID_TAG_OF[level] for level in LEVELS)
# OrthancPluginInstanceOrigin
ORIGINS = {1: "UNKNOWN", 2: "DICOM_PROTOCOL", 3: "REST_API", 4: "PLUGIN", 5: "LUA", 6: "WEB_DAV"}
KINDS_OF_EVENTS = (
    "dicom.instance.stored",
    *(f"dicom.{level.lower()}.{what}" for what in ("new", "stable") for level in LEVELS[:3]),
    *(
        f"dicom.{level.lower()}.{what}"
        for what in ("deleted", "metadata-updated", "attachment-updated")
        for level in LEVELS
    ),
    "orthanc.job.succeeded",
    "orthanc.job.failed",
    "orthanc.started",
    "orthanc.stopped",
    "orthanc.modalities.updated",
    "orthanc.peers.updated",
)

# -- identifiers of an instance, from its file ----------------------------------------------------------------------

LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # DICOM PS3.5 7.1.2
EXPLICIT, IMPLICIT = struct.Struct("<HH2sH").unpack_from, struct.Struct("<HHI").unpack_from
LENGTH = struct.Struct("<I").unpack_from
TRANSFER_SYNTAX, LAST_TAG = 0x00020010, 0x0020000E
PLACE_OF_TAG = {0x00100020: 0, 0x0020000D: 1, LAST_TAG: 2, 0x00080018: 3}
JSON_NAMES = tuple(f'"{tag}":"' for tag in ("0008,0018", "0010,0020", "0020,000d", "0020,000e"))
IMPLICIT_LITTLE_ENDIAN = b"1.2.840.10008.1.2"
# Big endian; deflated.
UNREAD_TRANSFER_SYNTAXES = (b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.8.1")


def identifiers_of_file(data: bytes) -> tuple[str, ...] | None:
    """Return PatientID, StudyInstanceUID, SeriesInstanceUID and SOPInstanceUID of a DICOM file, stripped.

    Reads up to the Series Instance UID: 10 µs, where Orthanc's own JSON of an instance takes 50 to 150 and grows with it.
    None for what it does not read: a sequence of undefined length before that, a PatientID that is not ASCII, another
    byte order. Ask Orthanc then. Source: DICOM PS3.5 7.1, PS3.10 7.1.
    """
    try:
        return _identifiers_of_file(data)
    except (struct.error, UnicodeDecodeError):
        return None


def _identifiers_of_file(data: bytes) -> tuple[str, ...] | None:
    found, position, syntax, element, end = [b"", b"", b"", b""], 132, b"", EXPLICIT, len(data)
    while position < end:
        group, number, *rest = element(data, position)
        tag = group << 16 | number
        if group != 2 and syntax == IMPLICIT_LITTLE_ENDIAN and element is EXPLICIT:
            element = IMPLICIT  # the file meta information, always explicit, ends here
            continue
        if syntax in UNREAD_TRANSFER_SYNTAXES or tag > LAST_TAG:
            break
        position += 8
        length = rest[-1]
        if element is EXPLICIT and rest[0] in LONG_VRS:
            length, position = LENGTH(data, position)[0], position + 4
        if tag in PLACE_OF_TAG:
            found[PLACE_OF_TAG[tag]] = data[position : position + length]
        elif tag == TRANSFER_SYNTAX:
            syntax = data[position : position + length].rstrip(b"\0 ")
        position += length  # an undefined one leads beyond the end: nothing is found
    return tuple(value.decode("ascii").strip("\0 ") for value in found) if all(found[1:]) else None


def identifiers_of_json(text: str) -> tuple[str, ...] | None:
    """Return the same from Orthanc's JSON of an instance (`gggg,eeee`), in a tenth of the time that decoding all of it takes.

    What it finds may be those of an item of a sequence: compare the identifier that Orthanc gives. None: decode it.
    """
    values, end = [], 0
    for name in JSON_NAMES:  # in the order of the text
        start = text.find(name, end)
        end = text.find('"', start + len(name))
        if min(start, end) < 0 or "\\" in (value := text[start + len(name) : end]):
            return None
        values.append(value.strip("\0 "))
    instance, *parents = values
    return (*parents, instance)


# -- what is said ---------------------------------------------------------------------------------------------------


def about(
    level: str,
    orthanc_ids: Sequence[str],
    dicom_ids: Sequence[str | None],
    *,
    origin: Mapping[str, str] | None = None,
    counts: Mapping[str, int] | None = None,
    tags: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the `data` of an event about a resource: identifiers from the patient down to it, and what else is known.

    An identifier that is not known is null. `tags` are there only if some were asked for.
    """
    depth = LEVELS.index(level) + 1
    ids = [*[None] * (depth - len(orthanc_ids)), *orthanc_ids][:depth]
    data: dict[str, Any] = {
        "level": level,
        "id": ids[-1],
        "orthanc": {name: value or None for name, value in zip(LOWER, ids, strict=False)},
        "dicom": dict(zip(IDENTIFIERS[:depth], [*dicom_ids, *[None] * 4], strict=False)),
    }
    for name, part in (("origin", origin), ("counts", counts), ("tags", tags)):
        if part is not None:
            data[name] = part
    return data


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One row of the outbox. `key` says what it is in order with, `data` is JSON, `time` seconds since 1970."""

    row: int
    id: str
    type: str
    key: str
    subject: str
    time: float
    data: str

    @property
    def milliseconds(self) -> int:
        """Its time since 1970, as `utc` writes it."""
        return (_moment(self.time) - _moment(0)) // datetime.timedelta(milliseconds=1)

    @property
    def is_of_resource(self) -> bool:
        """Whether its data has identifiers: what a user publishes may look alike."""
        return self.type.startswith("dicom.")

    @property
    def study(self) -> str:
        """The study that it belongs to, else its key: what is in one partition or group is in order."""
        study = json.loads(self.data)["orthanc"].get("study") if self.is_of_resource else None
        return str(study or self.key)


# -- how it is said -------------------------------------------------------------------------------------------------


SAFE = "".join(map(chr, (0x21, *range(0x23, 0x25), *range(0x26, 0x7F))))  # all that is printed but " and %


# Beyond that RabbitMQ (128 KiB of a frame) and web servers close the connection, instead of refusing the event.
MOST_HEADER_BYTES = 64 << 10


class Message(NamedTuple):
    """What a broker sends of one event; the headers are those of CloudEvents' binary form, else there are none."""

    body: bytes
    mime: str
    headers: dict[str, str]


class Form:
    """Makes the bodies of events: `structured` and `binary` CloudEvents 1.0, or `plain`."""

    def __init__(self, form: str, source: str) -> None:
        self.form, self.source = form, source
        self.mime = "application/json" if form == "plain" else "application/cloudevents+json"

    def body(self, event: Event) -> bytes:
        """Return one JSON object in one line: all attributes and the data, or the flat form."""
        if self.form == "plain":
            return json.dumps(plain(event)).encode()
        # By hand: `data` is JSON already, and this is done ten thousand times a second.
        attributes = {**self.attributes(event), "datacontenttype": "application/json"}
        named = ", ".join(f'"{name}": {quoted(value)}' for name, value in attributes.items())
        return f'{{{named}, "data": {event.data}}}'.encode()

    def attributes(self, event: Event) -> dict[str, str]:
        """Return what a CloudEvent has besides its data and the type of that, for all forms and brokers."""
        named = {"id": event.id, "source": self.source, "type": event.type, "subject": event.subject}
        return {"specversion": "1.0", **named, "time": utc(event.time)}

    def message(self, event: Event, prefix: str = "ce-") -> Message:
        """Return the event as a protocol carries it whose headers begin with `prefix`; where that is `ce-`, percent-encoded."""
        if self.form != "binary":
            return Message(self.body(event), self.mime, {})
        found = self.attributes(event)
        if prefix == "ce-":  # CloudEvents' HTTP binding 3.1.3.2
            found = {name: urllib.parse.quote(value, safe=SAFE) for name, value in found.items()}
        if sum(len(value.encode()) for value in found.values()) > MOST_HEADER_BYTES:
            raise ValueError(f"more than {MOST_HEADER_BYTES} bytes of attributes, which no server takes as headers")
        return Message(
            event.data.encode(), "application/json", {f"{prefix}{name}": each for name, each in found.items()}
        )


def plain(event: Event) -> dict[str, Any]:
    """Return one flat object: `identity` is the type, `ID` the resource, `patientID`, `studyID`, … are Orthanc's identifiers."""
    data = json.loads(event.data)
    flat: dict[str, Any] = {"identity": event.type, "eventID": event.id, "time": utc(event.time)}
    if not event.is_of_resource:
        return flat | (data if isinstance(data, dict) else {"data": data})
    flat |= {"ID": data["id"], **{f"{level}ID": value for level, value in data["orthanc"].items()}, **data["dicom"]}
    names = {"kind": "origin", "aet": "remoteAET", "ip": "remoteIP"}
    flat |= {names[name]: value for name, value in data.get("origin", {}).items() if name in names}
    counts = {"instances": "instanceCount", "series": "seriesCount", "studies": "studyCount"}
    flat |= {counts[name]: value for name, value in data.get("counts", {}).items()}
    return {**data.get("tags", {}), **flat}


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
