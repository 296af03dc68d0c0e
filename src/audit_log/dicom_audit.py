# SPDX-License-Identifier: AGPL-3.0-or-later
"""DICOM audit messages (PS3.15 A.5) of lines: what hospitals' audit repositories take (IHE ATNA)."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from xml.etree import ElementTree as Xml

LONGEST_TEXT = 500  # characters of a value: so that the longest message fits into a datagram
NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Of the routes that are watched: Orthanc's own lists are not.
SEARCH = {
    "post-attempt": re.compile(r"^/tools/find/?$"),
    "retrieve-attempt": re.compile(r"/(?:studies|series|instances)/?$"),
}
EXPORT = {
    "post-attempt": re.compile(r"/(?:archive|media|create-archive|create-media)/?$"),
    "retrieve-attempt": re.compile(
        r"/(?:archive|media|file|dicom|pdf|export|nifti|stl|attachments/[^/]+/(?:data|compressed-data))/?$"
        r"|^/tools/create-(?:archive|media)/?$"
    ),
}
READS_LOG = re.compile(r"^/audit-log/?$")
IMPORTS = ("RestApi", "WebDav")  # origins of what somebody uploads
DETAILS = (
    "Number",
    "Count",
    "Since",
    "Method",
    "Route",
    "ForwardedFor",
    "Job",
    "Made",
)  # of a line, on its first object
UNKNOWN = "<none>"  # instead of an identifier that the line has not, and the message must have

ACTIVITY = "110100", "Application Activity"
LOG_USED = "110101", "Audit Log Used"
ACCESSED = "110103", "DICOM Instances Accessed"
TRANSFERRED = "110104", "DICOM Instances Transferred"
STUDY_DELETED = "110105", "DICOM Study Deleted"
EXPORTED = "110106", "Export"
IMPORTED = "110107", "Import"
QUERIED = "110112", "Query"
ACTIVITY_TYPES = {"started": ("110120", "Application Start"), "stopped": ("110121", "Application Stop")}
APPLICATION = "110150", "Application"
DESTINATION = "110152", "Destination Role ID"
SOURCE = "110153", "Source Role ID"
TO_MEDIA = "110154", "Destination Media"
FROM_MEDIA = "110155", "Source Media"
URI_MEDIA = "110037", "URI"
STUDY_UID = "110180", "Study Instance UID", "DCM"
PATIENT_NUMBER = "2", "Patient Number", "RFC-3881"
SEARCH_CRITERIA = "10", "Search Criteria", "RFC-3881"
URI = "12", "URI", "RFC-3881"


class Party(NamedTuple):
    """Somebody or something that took part: an ActiveParticipant.

    Attributes
    ----------
    access : where on the network, and what that is: "1" a machine's name, "2" an IP address, "5" a URI.
    is_media : whether it stands for what data goes to or comes from.
    """

    user: str
    role: tuple[str, str] | None = None
    is_requestor: bool = False
    aet: str = ""
    access: tuple[str, str] = ("", "")
    is_media: bool = False


class Event(NamedTuple):
    """What a message says of a line besides its studies and patients."""

    kind: tuple[str, str]
    action: str
    parties: list[Party]
    has_study: bool = True


class AuditMessages:
    """Makes messages of lines, for one Orthanc.

    Parameters
    ----------
    source : the name under which the repository knows this Orthanc.
    aet : its AE title.
    host : the name of the machine.
    """

    def __init__(self, source: str, aet: str, host: str) -> None:
        self._source, self._aet, self._host = source, aet, host

    def of(self, line: Mapping[str, Any]) -> str | None:
        """Return the XML of a line, or None: no message fits it."""
        event = self._event(line)
        if event is None:
            return None
        root = Xml.Element("AuditMessage")
        found = _add(
            root,
            "EventIdentification",
            EventActionCode=event.action,
            EventDateTime=line["At"],
            EventOutcomeIndicator="8" if line.get("Result") == "failure" else "0",
        )
        _add_coded(found, "EventID", *event.kind)
        if line["Event"] in ACTIVITY_TYPES:
            _add_coded(found, "EventTypeCode", *ACTIVITY_TYPES[line["Event"]])
        if line.get("Error"):
            Xml.SubElement(found, "EventOutcomeDescription").text = _clean(line["Error"])
        for party in event.parties:
            _add_party(root, party)
        source = _add(root, "AuditSourceIdentification", AuditSourceID=self._source)
        _add(source, "AuditSourceTypeCode", **{"csd-code": "4"})  # an application server
        _add_objects(root, line, event)
        return Xml.tostring(root, encoding="unicode")

    def _us(self, role: tuple[str, str] | None, *, is_requestor: bool = False, aet: str = "") -> Party:
        return Party(self._source, role, is_requestor, aet or self._aet, (self._host, "1"))

    def _event(self, line: Mapping[str, Any]) -> Event | None:
        match line["Event"]:
            case "started" | "stopped":
                return Event(ACTIVITY, "E", [self._us(APPLICATION)], has_study=False)
            case "received":
                return self._received(line)
            case "sent":
                return self._sent(line)
            case "archived":
                place = (f"/jobs/{line.get('Job', '')}/archive", "5")
                media = Party(place[0], TO_MEDIA, access=place, is_media=True)
                return Event(EXPORTED, "R", [self._us(SOURCE, is_requestor=True), media])
            case "deleted":
                kinds = {"Study": STUDY_DELETED, "Series": ACCESSED}
                by = _requesters(line["By"]) if line.get("By") else [self._us(None)]
                kind = kinds.get(line.get("Level", "")) if line.get("StudyInstanceUID") else None
                return Event(kind, "D", by) if kind else None
            case "retrieve-attempt" | "post-attempt":
                return self._requested(line)
        return None

    def _received(self, line: Mapping[str, Any]) -> Event:
        origin = line.get("From", {})
        ip, aet, user = (origin.get(name, "") for name in ("RemoteIP", "RemoteAET", "HttpUsername"))
        if line.get("Made"):
            return Event(ACCESSED, "C", [self._us(None, is_requestor=True)])
        who = user or ip or origin.get("Origin") or UNKNOWN
        if origin.get("Origin") in IMPORTS:
            person = Party(who, DESTINATION, is_requestor=True, access=(ip, "2"))
            media = Party(ip or origin["Origin"], FROM_MEDIA, access=(ip, "2"), is_media=True)
            return Event(IMPORTED, "C", [person, self._us(DESTINATION), media])
        sender = Party(aet or who, SOURCE, is_requestor=True, aet=aet, access=(ip, "2"))
        return Event(TRANSFERRED, "C", [sender, self._us(DESTINATION, aet=origin.get("CalledAET", ""))])

    def _sent(self, line: Mapping[str, Any]) -> Event:
        to, mover = line.get("To") or UNKNOWN, line.get("MoveOriginator")
        is_url = "://" in to
        parties = [
            self._us(SOURCE, is_requestor=not mover),
            Party(to, DESTINATION, aet="" if is_url else to, access=(to, "5") if is_url else ("", "")),
        ]
        if mover:
            parties.append(Party(mover, is_requestor=True, aet=mover))
        return Event(TRANSFERRED, "C", parties)

    def _requested(self, line: Mapping[str, Any]) -> Event | None:
        route, ip = line.get("Route", ""), line.get("IP", "")
        who = _requesters(line)
        if SEARCH[line["Event"]].search(route):
            asking = [party._replace(role=SOURCE) if number == 0 else party for number, party in enumerate(who)]
            return Event(QUERIED, "E", [*asking, self._us(DESTINATION)])
        if EXPORT[line["Event"]].search(route) and "Script" not in line:  # a script's reading leaves nothing
            receiver = [party._replace(role=DESTINATION) for party in who]
            media = Party(ip or UNKNOWN, TO_MEDIA, access=(ip, "2"), is_media=True)
            return Event(EXPORTED, "R", [*receiver, self._us(SOURCE), media])
        if line["Event"] != "retrieve-attempt":
            return None
        return Event(LOG_USED, "R", who, has_study=False) if READS_LOG.match(route) else Event(ACCESSED, "R", who)


def _requesters(who: Mapping[str, Any]) -> list[Party]:
    """Return who asked: a person, or a script and the person who asked the script for it."""
    if "Script" not in who:
        user, ip = who.get("User", ""), who.get("IP", "")
        return [Party(user or ip or UNKNOWN, is_requestor=True, access=(ip, "2"))]
    asked_by = who.get("AskedBy")
    person = asked_by.get("User", "") if isinstance(asked_by, Mapping) else ""
    script = Party(who["Script"], is_requestor=not person)
    return [script, Party(person, is_requestor=True)] if person else [script]


def _clean(value: object) -> str:
    """Return a value as XML may hold it, and no longer than a message should."""
    return NOT_IN_XML.sub("\ufffd", str(value))[:LONGEST_TEXT]


def _add(parent: Xml.Element, name: str, **attributes: object) -> Xml.Element:
    return Xml.SubElement(parent, name, {key: _clean(value) for key, value in attributes.items()})


def _add_coded(parent: Xml.Element, name: str, code: str, text: str, system: str = "DCM") -> None:
    _add(parent, name, **{"csd-code": code, "codeSystemName": system, "originalText": text})


def _add_party(root: Xml.Element, party: Party) -> None:
    attributes = {"UserID": party.user, "UserIsRequestor": "true" if party.is_requestor else "false"}
    if party.aet:
        attributes["AlternativeUserID"] = f"AETITLES={party.aet}"
    if party.access[0]:
        attributes["NetworkAccessPointID"], attributes["NetworkAccessPointTypeCode"] = party.access
    found = _add(root, "ActiveParticipant", **attributes)
    if party.role:
        _add_coded(found, "RoleIDCode", *party.role)
    if party.is_media:
        _add_coded(_add(found, "MediaIdentifier"), "MediaType", *URI_MEDIA)


def _add_objects(root: Xml.Element, line: Mapping[str, Any], event: Event) -> None:
    """Add what a message is about; the first object has the details of the line."""
    details: Iterable[str] = DETAILS
    if event.kind in (LOG_USED, QUERIED):
        is_query = event.kind == QUERIED
        found = _add_object(root, "2", "24" if is_query else "13", SEARCH_CRITERIA if is_query else URI, line["Route"])
        if is_query:
            asked = _clean(f"{line.get('Method', '')} {line['Route']}")
            Xml.SubElement(found, "ParticipantObjectQuery").text = _base64(asked)
        else:
            Xml.SubElement(found, "ParticipantObjectName").text = "Security Audit Log"
        details = _add_details(found, line, details)
    if event.has_study and (event.kind != QUERIED or "StudyInstanceUID" in line):
        found = _add_object(root, "2", "3", STUDY_UID, line.get("StudyInstanceUID") or UNKNOWN)
        Xml.SubElement(found, "ParticipantObjectName").text = _clean(line.get("Study") or UNKNOWN)
        _add_details(found, line, details)
        patient = line.get("Patient") or UNKNOWN
        found = _add_object(root, "1", "1", PATIENT_NUMBER, patient)
        Xml.SubElement(found, "ParticipantObjectName").text = _clean(patient)


def _add_object(root: Xml.Element, kind: str, role: str, id_type: tuple[str, str, str], name: str) -> Xml.Element:
    codes = {"ParticipantObjectTypeCode": kind, "ParticipantObjectTypeCodeRole": role}
    found = _add(root, "ParticipantObjectIdentification", ParticipantObjectID=name, **codes)
    _add_coded(found, "ParticipantObjectIDTypeCode", *id_type)
    return found


def _add_details(found: Xml.Element, line: Mapping[str, Any], names: Iterable[str]) -> Iterable[str]:
    """Add what a line says besides; return what is left for the next object: nothing."""
    for name in names:
        if name in line:
            _add(found, "ParticipantObjectDetail", type=name, value=_base64(_clean(line[name])))
    return ()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
