# SPDX-License-Identifier: AGPL-3.0-or-later
"""Awkward nodes: destinations in the test's own process that misbehave as real ones do, by switches.

- `DicomNode`: C-ECHO, C-STORE, C-FIND and Storage Commitment; drops duplicates, leaves out keys, refuses, is slow.
- `HttpNode`: answers HTTP as a test says: with a redirect, a login page, JSON of something else, or as a real server does.

What they were sent and asked is kept, to be looked at. Each is a context manager, and `close()` ends it. A switch is an
attribute: a test changes it whenever it likes, also while the node is being talked to.

    with DicomNode("PACS", drops_duplicates=True) as node:
        server = start_orthanc(SCRIPT, {"DicomModalities": {"PACS": node.as_modality()}})

`DicomNode` needs pynetdicom (`pip install pynetdicom`).
"""

from __future__ import annotations

import abc
import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any

import requests
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, build_role, evt
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

SUCCESS, PENDING, REFUSED = 0x0000, 0xFF00, 0xA700  # DIMSE statuses (PS3.4 B.2.3, C.4.1.1.4)
KEYS_OF_LEVEL = {
    "STUDY": ("PatientID", "StudyInstanceUID"),
    "SERIES": ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"),
    "IMAGE": ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
}


class _Node(abc.ABC):
    """What both kinds share: `with node:` closes it."""

    @abc.abstractmethod
    def close(self) -> None:
        """End it, and give its port back."""

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DicomNode(_Node):
    """A DICOM node that keeps what it is sent in memory, in `taken`, in the order in which it came.

    Parameters
    ----------
    drops_duplicates
        Whether a SOP Instance UID that it has already, under whatever patient, is answered with 0x0000 and not stored.
    leaves_out
        Keywords that its C-FIND answers lack: `PatientID` at all levels, `IMAGE.PatientID` at that one.
    finds
        Whether it takes C-FIND at all.
    ignores_keys
        Whether C-FIND answers with all that it has, whatever the keys say.
    refuses
        Says of a dataset whether C-STORE answers 0xA700 (out of resources).
    forgets
        Says of a dataset whether C-STORE answers 0x0000 and keeps nothing.
    delay
        Seconds that each C-STORE takes.
    commits_for
        Where reports of Storage Commitment go: `[aet, host, port]` of the one that asks, as `as_modality()` gives it. It
        commits itself to each SOP Instance UID that it has, under whatever patient: the request names no patient.
    """

    def __init__(
        self,
        aet: str = "NODE",
        *,
        drops_duplicates: bool = False,
        leaves_out: tuple[str, ...] = (),
        finds: bool = True,
        ignores_keys: bool = False,
        refuses: Callable[[Dataset], object] = lambda _: False,
        forgets: Callable[[Dataset], object] = lambda _: False,
        delay: float = 0,
        commits_for: list[Any] | None = None,
    ) -> None:
        self.aet, self.drops_duplicates, self.leaves_out = aet, drops_duplicates, leaves_out
        self.ignores_keys, self.refuses, self.forgets, self.delay = ignores_keys, refuses, forgets, delay
        self.commits_for = commits_for
        self.taken: list[Dataset] = []
        self.found: list[Dataset] = []
        """The keys of each C-FIND."""
        self._reports: list[threading.Thread] = []
        entity = AE(ae_title=aet)
        entity.supported_contexts = AllStoragePresentationContexts
        entity.add_supported_context(Verification)
        entity.add_supported_context(StorageCommitmentPushModel)
        if finds:
            entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_C_FIND, self._find), (evt.EVT_N_ACTION, self._commit)]
        self._server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = int(self._server.socket.getsockname()[1])

    def as_modality(self) -> list[str | int]:
        """What an Orthanc writes in `DicomModalities` to send here."""
        return [self.aet, "127.0.0.1", self.port]

    def patients(self) -> list[str]:
        """The PatientID of each instance that it has."""
        return [str(dataset.PatientID) for dataset in self.taken]

    def close(self) -> None:
        """End it."""
        for report in self._reports:
            report.join()
        self._server.shutdown()

    def _store(self, event: Any) -> int:
        time.sleep(self.delay)
        dataset = event.dataset
        if self.refuses(dataset):
            return REFUSED
        known = any(each.SOPInstanceUID == dataset.SOPInstanceUID for each in self.taken)
        if not self.forgets(dataset) and not (known and self.drops_duplicates):
            self.taken.append(dataset)
        return SUCCESS

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        keys: Dataset = event.identifier
        self.found.append(keys)
        answered = set()
        names = KEYS_OF_LEVEL[keys.QueryRetrieveLevel]
        for dataset in self.taken:
            values = tuple(str(dataset.get(name, "")) for name in names)
            asked = (str(keys.get(name) or "") for name in names)
            fits = all(not wanted or wanted == value for wanted, value in zip(asked, values, strict=True))
            if values in answered or not (fits or self.ignores_keys):
                continue
            answered.add(values)
            answer = Dataset()
            answer.QueryRetrieveLevel = keys.QueryRetrieveLevel
            for element in keys:
                names_of_it = {element.keyword, f"{keys.QueryRetrieveLevel}.{element.keyword}"}
                if element.keyword in dataset and not names_of_it & {*self.leaves_out}:
                    answer[element.keyword] = dataset[element.keyword]
            yield PENDING, answer

    def _commit(self, event: Any) -> tuple[int, Dataset | None]:
        """Take a request (PS3.4 J.3.2), and report on an association of our own."""
        report = threading.Thread(target=self._report, args=(event.action_information,), daemon=True)
        self._reports.append(report)
        report.start()
        return SUCCESS, None

    def _report(self, request: Dataset) -> None:
        assert self.commits_for, "say where reports go: commits_for=server.as_modality()"
        known = {dataset.SOPInstanceUID for dataset in self.taken}
        wanted = list(request.ReferencedSOPSequence)
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        report.ReferencedSOPSequence = [one for one in wanted if one.ReferencedSOPInstanceUID in known]
        failed = [one for one in wanted if one.ReferencedSOPInstanceUID not in known]
        for one in failed:
            one.FailureReason = 0x0112  # no such object instance
        if failed:
            report.FailedSOPSequence = failed
        aet, host, port = self.commits_for
        entity = AE(ae_title=self.aet)
        entity.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = entity.associate(host, int(port), ae_title=aet, ext_neg=[role])
        if association.is_established:
            kind = 2 if failed else 1
            association.send_n_event_report(
                report, kind, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            association.release()


@dataclass(frozen=True)
class HttpRequest:
    """What an `HttpNode` was asked; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class HttpAnswer:
    """What an `HttpNode` answers."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Respond = Callable[[HttpRequest], HttpAnswer]


def redirect_to(url: str, status: int = HTTPStatus.MOVED_PERMANENTLY) -> Respond:
    """Send everybody to `url` and the path that was asked for, as a proxy does that wants https."""
    return lambda request: HttpAnswer(status, headers={"Location": url.rstrip("/") + request.path})


def login_page() -> Respond:
    """Answer all requests with a page of HTML and 200, as a single sign-on does."""
    page = b"<!DOCTYPE html><html><body><form>Password: <input type=password></form></body></html>"
    return lambda _: HttpAnswer(200, page, {"Content-Type": "text/html"})


def answer_json(content: object, status: int = 200) -> Respond:
    """Answer all requests with this, as a service does that is no Orthanc."""
    return lambda _: HttpAnswer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


def slow(seconds: float, respond: Respond) -> Respond:
    """Answer as `respond` does, so many seconds later."""

    def wait_first(request: HttpRequest) -> HttpAnswer:
        time.sleep(seconds)
        return respond(request)

    return wait_first


def never_answer() -> Respond:
    """Take each request, and say nothing on its connection, as a server does that hangs."""

    def wait(_: HttpRequest) -> HttpAnswer:
        threading.Event().wait()
        raise AssertionError

    return wait


def hang_up() -> Respond:
    """Take each request, and close the connection without an answer, as a proxy does whose server is away."""

    def close(_: HttpRequest) -> HttpAnswer:
        raise ConnectionAbortedError

    return close


HOP_BY_HOP = ("host", "connection", "transfer-encoding")  # headers that a proxy does not pass on


def pass_on_to(url: str) -> Respond:
    """Give each request to the server at `url`, and its answer back, as a proxy does that is well."""

    def respond(request: HttpRequest) -> HttpAnswer:
        own = {name: value for name, value in request.headers.items() if name not in HOP_BY_HOP}
        answer = requests.request(
            request.method, url.rstrip("/") + request.path, headers=own, data=request.body, timeout=60
        )
        return HttpAnswer(answer.status_code, answer.content, {"Content-Type": answer.headers.get("Content-Type", "")})

    return respond


class HttpNode(_Node):
    """An HTTP server whose answers are a test's: `respond` may be set anew at any time; `asked` holds each request."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.asked: list[HttpRequest] = []
        node = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def _answer(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = HttpRequest(self.command, self.path, headers, self._body(headers))
                node.asked.append(request)
                answer = node.respond(request)
                self.send_response(answer.status)
                for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            def _body(self, headers: Mapping[str, str]) -> bytes:
                if headers.get("transfer-encoding", "").lower() != "chunked":
                    return self.rfile.read(int(headers.get("content-length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 - the base class's names

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def as_peer(self, *credentials: str) -> list[str]:
        """What an Orthanc writes in `OrthancPeers` to send here, with user and password if given."""
        return [f"{self.url}/", *credentials]

    def requests(self, method: str, path: str) -> list[HttpRequest]:
        """What it was asked by this method and for this path."""
        return [each for each in self.asked if (each.method, each.path) == (method, path)]

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
