# SPDX-License-Identifier: AGPL-3.0-or-later
"""An audit repository of the tests' own, and the rules of PS3.15 A.5.1 for what it gets."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from tests.certificates import LEAF, Certificates

HEADER = re.compile(
    r"<85>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ([!-~]{1,255}) Orthanc (\d+) DICOM\+RFC3881 - \ufeff(<\?xml .+)",
    re.DOTALL,
)
CODED = ({"csd-code", "codeSystemName", "originalText"}, {"displayName"})
# Of each element: attributes that it must have, those that it may have, its children in their order, each with how many at least
# and at most, and what its text is.
MANY = 10**6
RULES: dict[str, tuple[set[str], set[str], list[tuple[str, int, int]]]] = {
    "AuditMessage": (
        set(),
        set(),
        [
            ("EventIdentification", 1, 1),
            ("ActiveParticipant", 1, MANY),
            ("AuditSourceIdentification", 1, 1),
            ("ParticipantObjectIdentification", 0, MANY),
        ],
    ),
    "EventIdentification": (
        {"EventDateTime", "EventOutcomeIndicator"},
        {"EventActionCode"},
        [("EventID", 1, 1), ("EventTypeCode", 0, MANY), ("EventOutcomeDescription", 0, 1)],
    ),
    "EventID": (*CODED, []),
    "EventTypeCode": (*CODED, []),
    "EventOutcomeDescription": (set(), set(), []),
    "ActiveParticipant": (
        {"UserID", "UserIsRequestor"},
        {"AlternativeUserID", "UserName", "NetworkAccessPointID", "NetworkAccessPointTypeCode"},
        [("RoleIDCode", 0, MANY), ("MediaIdentifier", 0, 1)],
    ),
    "RoleIDCode": (*CODED, []),
    "MediaIdentifier": (set(), set(), [("MediaType", 1, 1)]),
    "MediaType": (*CODED, []),
    "AuditSourceIdentification": ({"AuditSourceID"}, {"AuditEnterpriseSiteID"}, [("AuditSourceTypeCode", 0, MANY)]),
    "AuditSourceTypeCode": ({"csd-code"}, {"codeSystemName", "originalText", "displayName"}, []),
    "ParticipantObjectIdentification": (
        {"ParticipantObjectID"},
        {
            "ParticipantObjectTypeCode",
            "ParticipantObjectTypeCodeRole",
            "ParticipantObjectDataLifeCycle",
            "ParticipantObjectSensitivity",
        },
        [
            ("ParticipantObjectIDTypeCode", 1, 1),
            ("ParticipantObjectName", 0, 1),
            ("ParticipantObjectQuery", 0, 1),
            ("ParticipantObjectDetail", 0, MANY),
            ("ParticipantObjectDescription", 0, MANY),
        ],
    ),
    "ParticipantObjectIDTypeCode": (*CODED, []),
    "ParticipantObjectName": (set(), set(), []),
    "ParticipantObjectQuery": (set(), set(), []),
    "ParticipantObjectDetail": ({"type", "value"}, set(), []),
}
VALUES = {
    "EventActionCode": set("CRUDE"),
    "EventOutcomeIndicator": {"0", "4", "8", "12"},
    "UserIsRequestor": {"true", "false"},
    "NetworkAccessPointTypeCode": set("12345"),
    "ParticipantObjectTypeCode": set("1234"),
    "ParticipantObjectTypeCodeRole": {str(number) for number in range(1, 27)},
    "ParticipantObjectDataLifeCycle": {str(number) for number in range(1, 16)},
}


def check_element(element: Xml.Element) -> None:
    """Fail unless an element is what PS3.15 A.5.1 allows."""
    needed, allowed, children = RULES[element.tag]
    assert needed <= set(element.attrib) <= needed | allowed, (element.tag, element.attrib)
    for name, value in element.attrib.items():
        assert value in VALUES.get(name, {value}), (name, value)
        if name == "EventDateTime":
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value)
    found = [child.tag for child in element]
    order = [name for name, _, _ in children]
    assert set(found) <= set(order), (element.tag, found)
    assert found == sorted(found, key=order.index), (element.tag, found)
    for name, least, most in children:
        assert least <= found.count(name) <= most, (element.tag, name, found)
    if element.tag == "ParticipantObjectIdentification":
        assert ("ParticipantObjectName" in found) != ("ParticipantObjectQuery" in found)
    if element.tag == "ParticipantObjectDetail":
        base64.b64decode(element.attrib["value"], validate=True)
    if element.tag == "ParticipantObjectQuery":
        base64.b64decode(element.text or "", validate=True)
    if element.tag == "AuditSourceTypeCode" and element.attrib["csd-code"] not in set("123456789"):
        assert "codeSystemName" in element.attrib
    for child in element:
        check_element(child)


def details(message: Xml.Element) -> dict[str, str]:
    """What the first object says besides: the number of the line, and more."""
    found = message.iter("ParticipantObjectDetail")
    return {each.attrib["type"]: base64.b64decode(each.attrib["value"]).decode() for each in found}


def code(message: Xml.Element, name: str = "EventID") -> str:
    return next((each.attrib["csd-code"] for each in message.iter(name)), "")


def objects(message: Xml.Element) -> dict[str, str]:
    """The identifiers of what it is about, by the code of their kind."""
    found = message.iter("ParticipantObjectIdentification")
    return {code(each, "ParticipantObjectIDTypeCode"): each.attrib["ParticipantObjectID"] for each in found}


def parsed(raw: bytes) -> Xml.Element:
    """The audit message of a message of syslog, which is checked."""
    found = HEADER.fullmatch(raw.decode())
    assert found, raw
    message = Xml.fromstring(found[4])
    assert message.tag == "AuditMessage"
    check_element(message)
    return message


def certificates(folder: Path) -> Mapping[str, Path]:
    """An authority, and what it has issued: of a repository at 127.0.0.1, of an Orthanc, and of another authority."""
    made = Certificates(folder)
    root = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
    client = (*LEAF[:2], "extendedKeyUsage=clientAuth")
    for name in ("root", "stranger"):
        made.make(name, root, subject=f"/CN={name}")
    return {
        "authority": folder / "root.crt",
        "stranger": folder / "stranger.crt",
        "repository": made.make(
            "repository", (*LEAF, "subjectAltName=IP:127.0.0.1"), issuer="root", subject="/CN=repository"
        ),
        "client": made.make("client", client, issuer="root", subject="/CN=orthanc"),
    }


class Repository:
    """A receiver on a port of this machine, over TLS with certificates of both ends, or UDP.

    Attributes
    ----------
    raw : what came, message by message.
    before_close : is called before a connection is ended properly; what it raises ends it at once.
    """

    def __init__(self, protocol: str, files: Mapping[str, Path] | None = None, port: int = 0) -> None:
        self.raw: list[bytes] = []
        self.connections = 0
        self.breaks_off = False
        self._context = _server_context(files) if files else None
        kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
        self._socket = socket.socket(socket.AF_INET, kind)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self.port = self._socket.getsockname()[1]
        self._socket.settimeout(0.1)
        self._is_over = threading.Event()
        if protocol != "udp":
            self._socket.listen()
        self._thread = threading.Thread(target=self._datagrams if protocol == "udp" else self._streams)
        self._thread.start()

    def messages(self, kind: str = "", **wanted: str) -> list[Xml.Element]:
        """The messages of a kind that came, each checked."""
        found = [parsed(raw) for raw in list(self.raw)]
        return [each for each in found if kind in ("", code(each)) and wanted.items() <= details(each).items()]

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()
        self._socket.close()

    def _datagrams(self) -> None:
        while not self._is_over.is_set():
            try:
                self.raw.append(self._socket.recv(65536))
            except TimeoutError:
                continue

    def _streams(self) -> None:
        while not self._is_over.is_set():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            try:
                self._read(connection)
            except OSError:
                pass
            finally:
                connection.close()

    def _read(self, connection: socket.socket) -> None:
        assert self._context
        connection.settimeout(5)
        with self._context.wrap_socket(connection, server_side=True) as secured:
            self.connections += 1
            data = b""
            while more := secured.recv(65536):
                data += more
                if self.breaks_off:
                    return  # with what it has read, and no word
            while data:
                size, _, rest = data.partition(b" ")
                assert len(rest) >= int(size)
                self.raw.append(rest[: int(size)])
                data = rest[int(size) :]
            secured.unwrap().close()


def _server_context(files: Mapping[str, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["repository"])
    context.load_verify_locations(files["authority"])
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def wait(condition: Any, seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.05)
    return found
