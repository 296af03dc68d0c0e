# SPDX-License-Identifier: AGPL-3.0-or-later
"""Destinations, services and callers for moves, which write down all that happens to them."""

from __future__ import annotations

import dataclasses
import http.server
import ssl
import threading
import time
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from testing.pytest_plugin import StoreScp
from testing.server import OrthancServer

SCRIPT = Path(__file__).parents[2] / "cmove_interceptor.py"
SOON = {"FIRST_NOTIFICATION_DELAY_SECONDS": 0.3, "LONGEST_DELAY_SECONDS": 1.0}  # what was not delivered goes again
SUCCESS, WARNING, UNABLE = 0x0000, 0xB000, 0xC000
KEYS = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


class Destination:
    """A storage SCP that keeps what it receives: the bytes of each dataset, and who moved it."""

    def __init__(self, aet: str) -> None:
        self.aet = aet
        self.received: list[tuple[str, bytes, str, int]] = []
        self.refuse_after: int | None = None
        self.pause = 0.0
        self.most_at_once = 0
        self._counting = threading.Lock()
        self.takes = threading.Event()  # cleared: each C-STORE waits
        self.takes.set()
        entity = AE(aet)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, ALL_SYNTAXES)
        entity.add_supported_context(Verification)
        entity.maximum_associations = 50
        self._entity = entity
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._accepted)]
        self._server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port: int = self._server.socket.getsockname()[1]
        self._open = True

    def take_one_association_at_a_time(self) -> None:
        self._entity.maximum_associations = 1

    def _accepted(self, _event: Any) -> None:
        self.most_at_once = max(self.most_at_once, len(self._server.active_associations))

    def _store(self, event: Any) -> int:
        if self.refuse_after is not None:
            with self._counting:
                if not self.refuse_after:
                    return 0xA700  # out of resources
                self.refuse_after -= 1
        time.sleep(self.pause)
        self.takes.wait(120)
        request = event.request
        originator = str(request.MoveOriginatorApplicationEntityTitle or "").strip()
        self.received.append(
            (event.context.transfer_syntax, event.encoded_dataset(), originator, request.MoveOriginatorMessageID or 0)
        )
        return SUCCESS

    def as_modality(self) -> list[str | int]:
        return [self.aet, "127.0.0.1", self.port]

    def take(self) -> list[tuple[str, bytes, str, int]]:
        """What came since the last time, in a fixed order."""
        received, self.received = sorted(self.received), []
        return received

    def close(self) -> None:
        if self._open:
            self._open = False
            self.takes.set()
            self._server.shutdown()


ALL_SYNTAXES = sorted(
    {str(syntax) for context in AllStoragePresentationContexts for syntax in context.transfer_syntax or []}
)


@dataclasses.dataclass(frozen=True)
class Response:
    status: int
    remaining: int | None
    completed: int | None
    failed: int | None


def c_move(
    server: OrthancServer, level: str, target: str = "DEST", *, aet: str = "MOVER", **keys: str
) -> list[Response]:
    """A C-MOVE by pynetdicom; all responses."""
    model = (
        PatientRootQueryRetrieveInformationModelMove
        if level == "PATIENT"
        else StudyRootQueryRetrieveInformationModelMove
    )
    entity = AE(aet)
    entity.add_requested_context(model)
    entity.dimse_timeout = entity.network_timeout = 60
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(identifier, name, value.split("\\") if "\\" in value else value)
    association = entity.associate("127.0.0.1", server.dicom_port, ae_title=server.aet)
    assert association.is_established
    try:
        return [
            Response(
                status.Status,
                status.get("NumberOfRemainingSuboperations"),
                status.get("NumberOfCompletedSuboperations"),
                status.get("NumberOfFailedSuboperations"),
            )
            for status, _ in association.send_c_move(identifier, target, model, msg_id=77)
        ]
    finally:
        association.release()


class Service:
    """An HTTP service that keeps each request, and answers as it is told."""

    def __init__(self, certificate: Path | None = None, client_ca: Path | None = None) -> None:
        self.asked = 0  # requests that came, answered or not
        self.requests: list[dict[str, Any]] = []
        self.status = 200
        self.answer = b""
        self.location: str | None = None
        self.hang = threading.Event()
        self.hang.set()
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.asked += 1
                service.hang.wait(120)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                service.requests.append({"line": self.requestline, "path": self.path, "headers": headers, "body": body})
                self.send_response(service.status)
                if service.location:
                    self.send_header("Location", service.location)
                self.send_header("Content-Length", str(len(service.answer)))
                self.end_headers()
                self.wfile.write(service.answer)

            do_POST = do_GET  # noqa: N815 - the name that http.server asks for

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            if client_ca:
                context.load_verify_locations(client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.hang.set()
        self._server.shutdown()
        self._server.server_close()


def configuration(
    destination: Destination | StoreScp, section: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "DicomModalities": {"dest": destination.as_modality()},
        "DicomAlwaysAllowMove": True,
        **more,
    }
    return found if section is None else {**found, "CMoveInterceptor": section}


def last(server: OrthancServer) -> dict[str, Any]:
    return dict(server.get("/cmove-interceptor/requests", limit=1000)["Items"][-1])


def has_counts(server: OrthancServer) -> bool:
    """Whether the plugin lets statuses and counts be chosen (from 4.2)."""
    return tuple(map(int, str(server.get("/plugins/python")["Version"]).split("."))) >= (4, 2)


def identifiers(server: OrthancServer, patient: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"PATIENT": [patient], "STUDY": [], "SERIES": [], "IMAGE": []}
    for level, route in (("STUDY", "studies"), ("SERIES", "series"), ("IMAGE", "instances")):
        name = {"STUDY": "Study", "SERIES": "Series", "IMAGE": "Instance"}[level]
        query = {"Level": name, "Query": {"PatientID": patient}, "Expand": True}
        del route
        found[level] = sorted(each["MainDicomTags"][KEYS[level]] for each in server.post("/tools/find", query))
    return found


def unfinished_jobs(server: OrthancServer) -> list[str]:
    return [job["ID"] for job in server.get("/jobs?expand") if job["State"] in ("Pending", "Running", "Retry")]
