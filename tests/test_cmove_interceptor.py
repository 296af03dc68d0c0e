# SPDX-License-Identifier: AGPL-3.0-or-later
"""cmove_interceptor.py on a real Orthanc: moves by movescu and pynetdicom, to real destinations, past a real service."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from testing.dicom import make_study, pydicom_files
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import OrthancServer, dcmtk_program
from testing.standin import StandIn
from tests.constants import script_with

SCRIPT = Path(__file__).parent.parent / "cmove_interceptor.py"
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


class Doorkeeper:
    """Lets one association after the other through to a port: the next one is neither taken nor refused until that has ended."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=20)
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                with self._listening.accept()[0] as here, socket.create_connection(("127.0.0.1", self._to)) as there:
                    back = threading.Thread(target=self._pass_on, args=(there, here))
                    back.start()
                    self._pass_on(here, there)
                    back.join()

    @staticmethod
    def _pass_on(source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):  # who was waiting has given up
            while found := source.recv(65536):
                to.sendall(found)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


ALL_SYNTAXES = sorted(
    {str(syntax) for context in AllStoragePresentationContexts for syntax in context.transfer_syntax or []}
)


@pytest.fixture
def destination() -> Iterator[Destination]:
    node = Destination("DEST")
    yield node
    node.close()


@pytest.fixture(scope="module")
def shared_destination() -> Iterator[Destination]:
    node = Destination("DEST")
    yield node
    node.close()


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


def echo(server: OrthancServer) -> int:
    """The status of a C-ECHO."""
    entity = AE("ECHO")
    entity.add_requested_context(Verification)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 120
    association = entity.associate("127.0.0.1", server.dicom_port, ae_title=server.aet)
    assert association.is_established
    status = int(association.send_c_echo().Status)
    association.release()
    return status


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


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service()
    yield found
    found.close()


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
    return dict(server.get("/cmove-interceptor/requests", limit=1)["Items"][0])


def has_counts(server: OrthancServer) -> bool:
    """Whether the plugin lets statuses and counts be chosen (from 4.2)."""
    return tuple(map(int, str(server.get("/plugins/python")["Version"]).split("."))) >= (4, 2)


def metrics(server: OrthancServer) -> str:
    return server.request("GET", "/tools/metrics-prometheus").text


# As Orthanc itself


@pytest.fixture(scope="module")
def pair(
    start_orthanc_for_module: StartOrthanc, shared_destination: Destination
) -> tuple[OrthancServer, OrthancServer]:
    """An Orthanc without the script and one with it, with the same images and destination."""
    plain = start_orthanc_for_module(None, configuration(shared_destination))
    ours = start_orthanc_for_module(SCRIPT, configuration(shared_destination))
    studies = [
        *make_study(patient_id="P1", instances=3, series=2, AccessionNumber="A1"),
        *make_study(patient_id="P1", seed=2, AccessionNumber="A2", modality="MR"),
        *make_study(patient_id="p2", instances=2, AccessionNumber="a3"),
        *make_study(patient_id="U1", AccessionNumber="1.2.3.4", StudyInstanceUID="1.2.9"),
        *make_study(patient_id="U2", AccessionNumber="A9", StudyInstanceUID="1.2.3.4"),
    ]
    for server in (plain, ours):
        server.store(studies)
        server.store(pydicom_files()[:80])
        server.wait_until_stable()
    return plain, ours


def identifiers(server: OrthancServer, patient: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"PATIENT": [patient], "STUDY": [], "SERIES": [], "IMAGE": []}
    for level, route in (("STUDY", "studies"), ("SERIES", "series"), ("IMAGE", "instances")):
        name = {"STUDY": "Study", "SERIES": "Series", "IMAGE": "Instance"}[level]
        query = {"Level": name, "Query": {"PatientID": patient}, "Expand": True}
        del route
        found[level] = sorted(each["MainDicomTags"][KEYS[level]] for each in server.post("/tools/find", query))
    return found


def compare(pair: tuple[OrthancServer, OrthancServer], destination: Destination, level: str, **keys: str) -> list[Any]:
    """Both moves: the same arrives byte for byte, and the caller is told the same, or as much as the plugin allows."""
    answers, arrived = [], []
    for server in pair:
        answers.append(c_move(server, level, **keys))
        arrived.append(destination.take())
    assert arrived[1] == arrived[0]
    plain, ours = answers[0][-1], answers[1][-1]
    if has_counts(pair[1]) and plain.status == UNABLE and arrived[0]:
        assert (ours.status, ours.failed) == (WARNING, 1)  # truer: some did arrive
    elif has_counts(pair[1]):
        assert answers[1] == answers[0]
    else:
        assert ours.status == {SUCCESS: SUCCESS, UNABLE: WARNING}[plain.status]
    return arrived[0]


@pytest.mark.parametrize("level", list(KEYS))
def test_at_each_level_the_same_arrives_byte_for_byte_and_the_caller_is_told_the_same(
    pair: tuple[OrthancServer, OrthancServer], shared_destination: Destination, level: str
) -> None:
    uids = identifiers(pair[0], "P1")
    arrived = compare(pair, shared_destination, level, **{KEYS[level]: uids[level][0]})
    assert len(arrived) == {"PATIENT": 7, "IMAGE": 1}.get(level, len(arrived)) > 0
    assert {(originator, message) for _, _, originator, message in arrived} == {("MOVER", 77)}
    if level != "PATIENT":
        several = "\\".join(uids[level])
        assert len(compare(pair, shared_destination, level, **{KEYS[level]: several})) == 7


@pytest.mark.parametrize(
    ("level", "keys", "count"),
    [
        ("STUDY", {"AccessionNumber": "A1"}, 6),
        ("STUDY", {"AccessionNumber": "A1\\A2"}, 7),
        ("STUDY", {"AccessionNumber": "A3"}, 2),
        ("STUDY", {"AccessionNumber": "1.2.3.4"}, 1),
        ("STUDY", {"StudyInstanceUID": "1.2.3.4"}, 1),
        ("STUDY", {"AccessionNumber": "A2", "StudyInstanceUID": "1.2.3.4"}, 1),
        ("STUDY", {"AccessionNumber": "*"}, 0),
        ("STUDY", {"StudyInstanceUID": "9.9.9"}, 0),
        ("STUDY", {"StudyInstanceUID": "9.9.9\\1.2.3.4"}, 1),
        ("STUDY", {"PatientID": "P1"}, 0),
        ("PATIENT", {"PatientID": "P2"}, 2),
        ("PATIENT", {"PatientID": "p1\\P2"}, 9),
        ("PATIENT", {"PatientID": "P"}, 0),
        ("SERIES", {"StudyInstanceUID": "1.2.3.4"}, 0),
        ("IMAGE", {"SOPInstanceUID": "1.2.3.4"}, 0),
    ],
)
def test_what_a_request_means_is_looked_up_as_orthanc_does(
    pair: tuple[OrthancServer, OrthancServer],
    shared_destination: Destination,
    level: str,
    keys: dict[str, str],
    count: int,
) -> None:
    assert len(compare(pair, shared_destination, level, **keys)) == count


def test_real_images_of_every_kind_arrive_the_same(
    pair: tuple[OrthancServer, OrthancServer], shared_destination: Destination
) -> None:
    patients = {study["PatientMainDicomTags"].get("PatientID", "") for study in pair[0].get("/studies?expand")} - {
        "",
        "P1",
    }
    assert len(patients) > 8
    for patient in sorted(patients):
        compare(pair, shared_destination, "PATIENT", PatientID=patient)


def test_an_unknown_destination_fails_as_with_orthanc(pair: tuple[OrthancServer, OrthancServer]) -> None:
    for target in ("NOBODY", "DEST2"):
        plain, ours = (c_move(server, "PATIENT", target, PatientID="P1") for server in pair)
        assert plain[-1].status == UNABLE
        assert ours[-1].status == (UNABLE if has_counts(pair[1]) else WARNING)
    assert last(pair[1])["State"] == "failed"
    assert "DEST2" in last(pair[1])["Error"]


def test_a_destination_is_found_without_regard_to_case_as_with_orthanc(
    pair: tuple[OrthancServer, OrthancServer], shared_destination: Destination
) -> None:
    answers = [c_move(server, "PATIENT", "dest", PatientID="P2")[-1].status for server in pair]
    assert answers[0] == answers[1]
    assert len(shared_destination.take()) in (0, 4)


def test_movescu_and_storescp_see_no_difference(start_briefly: StartOrthanc, tmp_path: Path) -> None:
    nodes = [StoreScp(tmp_path / name, "SCP") for name in ("plain", "ours")]
    servers = [start_briefly(script, configuration(node)) for script, node in zip((None, SCRIPT), nodes, strict=True)]
    images = make_study(instances=4)
    said = []
    for server in servers:
        server.store(images)
        uid = server.get("/studies?expand")[0]["MainDicomTags"]["StudyInstanceUID"]
        command = [
            dcmtk_program("movescu"),
            "-v",
            "-S",
            "-aet",
            "MOVER",
            "-aec",
            server.aet,
            "-aem",
            "SCP",
            "-k",
            "QueryRetrieveLevel=STUDY",
        ]
        ended = subprocess.run(
            [*command, "-k", f"StudyInstanceUID={uid}", "127.0.0.1", str(server.dicom_port)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        said.append(re.findall(r"Received.*Response.*", ended.stdout + ended.stderr))
    contents = [{path.name: path.read_bytes() for path in node.files()} for node in nodes]
    for node in nodes:
        node.close()
    assert len(contents[0]) == 4
    assert contents[0] == contents[1]
    if has_counts(servers[1]):
        assert said[0] == said[1]


def test_without_synchronous_cmove_the_caller_is_answered_before_all_is_sent(
    start_briefly: StartOrthanc, destination: Destination
) -> None:
    server = start_briefly(SCRIPT, configuration(destination, SynchronousCMove=False))
    server.store(make_study(instances=10, patient_id="P1"))
    destination.takes.clear()
    answer = c_move(server, "PATIENT", PatientID="P1")[-1]
    assert answer.status == SUCCESS
    assert destination.received == []
    found = last(server)
    assert (found["State"], found["Instances"], found["Completed"]) == ("submitted", 10, None)  # nobody counts
    destination.takes.set()
    server.wait_until(lambda: len(destination.received) == 10, what="send all")


def test_a_destination_that_refuses_half_way_is_told_to_the_caller(
    start_briefly: StartOrthanc, destination: Destination
) -> None:
    server = start_briefly(SCRIPT, configuration(destination))
    server.store(make_study(instances=4, patient_id="P1"))
    destination.refuse_after = 2
    answer = c_move(server, "PATIENT", PatientID="P1")[-1]
    assert answer.status == WARNING
    assert len(destination.received) == 2
    if has_counts(server):
        assert answer.failed == 1
    found = last(server)
    assert found["State"] == "failed"
    assert found["Error"]


@pytest.mark.parametrize(
    ("level", "series", "associations", "jobs"),
    [("STUDY", 4, 1, 1), ("STUDY", 4, 2, 2), ("STUDY", 4, 3, 3), ("STUDY", 1, 2, 3), ("SERIES", 1, 2, 3)],
)
def test_many_images_arrive_the_same_by_several_associations(
    start_briefly: StartOrthanc, destination: Destination, level: str, series: int, associations: int, jobs: int
) -> None:
    images = 30 * series if series > 1 else 150  # the one series goes in pieces of 50
    servers = [
        start_briefly(None, configuration(destination)),
        start_briefly(SCRIPT, configuration(destination, {"Associations": associations}, ConcurrentJobs=4)),
    ]
    for server in servers:
        server.store(make_study(instances=images // series, series=series, patient_id="P1"))
    destination.pause = 0.002
    arrived, told = [], []
    for server in servers:
        destination.most_at_once = 0
        told.append(c_move(server, level, **{KEYS[level]: identifiers(server, "P1")[level][0]}))
        arrived.append(destination.take())
    assert len(arrived[0]) == images == len(set(arrived[0]))
    assert arrived[1] == arrived[0]
    assert destination.most_at_once == associations
    if has_counts(servers[1]):
        assert told[1] == told[0]
    found = last(servers[1])
    assert (found["State"], found["Completed"], len(found["Jobs"])) == ("done", images, jobs)


class Answers:
    """A loopback that answers as an Orthanc with so many images does, and holds one series of 500."""

    has_extended_find = True

    def __init__(self, archive: int, system: dict[str, Any]) -> None:
        self.answers = {"/system": system, "/statistics": {"CountInstances": archive}}

    def get(self, path: str) -> Any:
        return self.answers[path]

    def post(self, _path: str, _body: Any) -> Any:
        return [{"ID": "series", "Instances": [f"image {number}" for number in range(500)]}]


@pytest.mark.parametrize(
    ("archive", "system", "pieces"),
    [
        (4_000, {"ApiVersion": 31, "DatabaseBackendPlugin": None}, True),
        (4_001, {"ApiVersion": 31, "DatabaseBackendPlugin": None}, False),
        (9_999, {"ApiVersion": 31, "DatabaseBackendPlugin": "/postgresql.so"}, True),
        (9_999, {"ApiVersion": 28}, True),
    ],
)
def test_a_series_goes_in_one_piece_where_naming_its_images_would_read_a_large_archive(
    orthanc_standin: StandIn, archive: int, system: dict[str, Any], pieces: bool
) -> None:
    script = orthanc_standin.load(SCRIPT)
    planner = script.Planner(script.Archive(Answers(archive, system)), script.Settings().associations)
    parts = planner.parts("STUDY", ["study"])
    assert sum(part.total for part in parts) == 500
    assert (len(parts) > 1) == pieces
    assert pieces or parts[0].resources == ["series"]


@pytest.mark.parametrize(("level", "series"), [("STUDY", 4), ("STUDY", 1), ("SERIES", 1)])
def test_limits_of_c_find_cut_no_move_off(
    start_briefly: StartOrthanc, destination: Destination, level: str, series: int
) -> None:
    server = start_briefly(SCRIPT, configuration(destination, LimitFindResults=2, LimitFindInstances=2))
    server.store(make_study(instances=120 // series, series=series, patient_id="P1"))
    answer = c_move(server, level, **{KEYS[level]: identifiers(server, "P1")[level][0]})[-1]
    assert answer.status == SUCCESS
    assert len(destination.received) == 120
    assert last(server)["Completed"] == 120


def assert_all_arrive_once(server: OrthancServer, destination: Destination, count: int) -> None:
    answer = c_move(server, "PATIENT", PatientID="P1")[-1]
    assert answer.status == SUCCESS
    if has_counts(server):
        assert (answer.completed, answer.failed) == (count, 0)
    arrived = [content for _, content, _, _ in destination.take()]
    assert len(arrived) == len(set(arrived)) == count
    assert (last(server)["State"], last(server)["Completed"]) == ("done", count)


@pytest.mark.parametrize("series", [1, 2])
def test_a_destination_that_takes_one_association_at_a_time_gets_all_and_nothing_twice(
    start_briefly: StartOrthanc, destination: Destination, series: int
) -> None:
    destination.take_one_association_at_a_time()
    server = start_briefly(SCRIPT, configuration(destination))
    server.store(make_study(instances=240 // series, series=series, patient_id="P1"))
    destination.pause = 0.005
    assert_all_arrive_once(server, destination, 240)
    assert destination.most_at_once == 1


@pytest.mark.parametrize(("series", "patience"), [(2, 10), (2, 1), (1, 1)])  # seconds that Orthanc waits
def test_a_destination_that_lets_associations_wait_gets_all_and_nothing_twice(
    start_briefly: StartOrthanc, destination: Destination, series: int, patience: int
) -> None:
    with contextlib.closing(Doorkeeper(destination.port)) as doorkeeper:
        node = {"dest": [destination.aet, "127.0.0.1", doorkeeper.port]}
        server = start_briefly(SCRIPT, configuration(destination, DicomModalities=node, DicomScuTimeout=patience))
        server.store(make_study(instances=150 // series, series=series, patient_id="P1"))
        destination.pause = 0.02
        assert_all_arrive_once(server, destination, 150)
        failed = [job["ID"] for job in server.get("/jobs", expand="") if job["State"] == "Failure"]
        assert bool(failed) == (patience == 1), "Orthanc waited longer or less than it should here"


def test_a_job_that_nobody_waits_for_comes_after_all_pieces_of_a_series(
    start_briefly: StartOrthanc, destination: Destination
) -> None:
    server = start_briefly(SCRIPT, configuration(destination))  # two jobs at a time, as Orthanc does by itself
    server.store(make_study(instances=320, patient_id="P1"))
    server.store(make_study(instances=1, patient_id="P2"))
    other = server.post("/tools/find", {"Level": "Study", "Query": {"PatientID": "P2"}})
    destination.pause = 0.005
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(c_move, server, "PATIENT", PatientID="P1")
        server.wait_until(lambda: len(unfinished_jobs(server)) >= 2, what="send by two associations")
        for _ in range(5):
            server.post("/modalities/dest/store", {"Resources": other, "Synchronous": False})
        assert answers.result()[-1].status == SUCCESS
    server.wait_until(lambda: len(destination.received) == 325, what="send all")
    early = [place for place, (*_, message) in enumerate(destination.received) if not message and place < 256]
    assert not early, "a job that nobody waits for took the place of a piece that had ended"


def test_an_image_that_is_deleted_meanwhile_fails_the_move_and_the_rest_arrives(
    start_briefly: StartOrthanc, destination: Destination
) -> None:
    server = start_briefly(SCRIPT, configuration(destination))
    server.store(make_study(instances=200, patient_id="P1"))
    series = server.get("/series")[0]
    images = server.get(f"/series/{series}")["Instances"]
    if server.get("/system").get("Capabilities", {}).get("HasExtendedFind"):
        images = server.post("/tools/find", {"Level": "Instance", "Query": {}, "ParentSeries": series})
    destination.takes.clear()
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(c_move, server, "PATIENT", PatientID="P1")
        server.wait_until(lambda: unfinished_jobs(server), what="send the first piece")
        server.request("DELETE", f"/instances/{images[-1]}")
        destination.takes.set()
        assert answers.result()[-1].status == WARNING
    found = last(server)
    # All but the last piece, which has 16.
    assert (found["State"], found["Completed"]) == ("failed", 184) == ("failed", len(destination.received))
    assert "Not Found" in found["Error"]


def test_of_two_associations_that_are_refused_half_way_each_image_that_arrived_counts(
    start_briefly: StartOrthanc, destination: Destination
) -> None:
    server = start_briefly(SCRIPT, configuration(destination))
    server.store(make_study(instances=60, series=2, patient_id="P1"))
    destination.refuse_after = 70
    answer = c_move(server, "PATIENT", PatientID="P1")[-1]
    assert answer.status == WARNING
    assert len(destination.received) == 70
    found = last(server)
    assert (found["State"], found["Completed"]) == ("failed", 70)
    if has_counts(server):
        assert (answer.completed, answer.failed) == (71, 1)  # Orthanc counts the failed one as completed too
    assert not unfinished_jobs(server)


def test_a_destination_that_takes_nothing_fails_as_with_orthanc(
    start_briefly: StartOrthanc, destination: Destination
) -> None:
    destination.close()
    servers = [start_briefly(script, configuration(destination)) for script in (None, SCRIPT)]
    for server in servers:
        server.store(make_study(instances=4, patient_id="P1"))
    plain, ours = (c_move(server, "PATIENT", PatientID="P1")[-1] for server in servers)
    assert plain.status == UNABLE
    assert ours.status == (UNABLE if has_counts(servers[1]) else WARNING)
    assert last(servers[1])["State"] == "failed"


def test_a_caller_that_goes_away_stops_the_move(start_briefly: StartOrthanc, destination: Destination) -> None:
    server = start_briefly(SCRIPT, configuration(destination))
    if not has_counts(server):
        return  # one sub-operation: the plugin learns of the caller only at the end
    server.store(make_study(instances=70, series=2, patient_id="P1"))
    destination.pause = 0.1
    entity = AE("MOVER")
    model = PatientRootQueryRetrieveInformationModelMove
    entity.add_requested_context(model)
    association = entity.associate("127.0.0.1", server.dicom_port)
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.PatientID = "PATIENT", "P1"
    responses = association.send_c_move(identifier, "DEST", model)
    next(iter(responses))
    association.abort()
    server.wait_until(lambda: last(server)["State"] == "abandoned", what="notice that the caller is gone")
    server.wait_until(lambda: not unfinished_jobs(server), what="cancel the jobs")
    assert len(destination.received) < 140


# Telling services


def test_each_service_is_told_as_templated(
    start_orthanc: StartOrthanc, destination: Destination, service: Service
) -> None:
    section = {
        "Notify": [
            {"Url": f"{service.url}/get/{{StudyInstanceUID}}/x?to={{TargetAET}}&from={{OriginatorAET}}&all=1"},
            {"Url": f"{service.url}/post", "Method": "POST", "Token": "t0ken", "Headers": {"X-Site": "here"},
             "Body": {"uid": "{StudyInstanceUID}", "text": "{{{Level}}}", "list": [1, "{OriginatorID}", None], "n": 5}},
            {"Name": "all", "Url": f"{service.url}/all", "Method": "POST", "Username": "u", "Password": "p:w"},
            {"Name": "after", "Url": f"{service.url}/after?state={{State}}&n={{Instances}}&done={{Completed}}",
             "When": "after"},
        ]
    }  # fmt: skip
    server = start_orthanc(SCRIPT, configuration(destination, section))
    server.store(make_study(instances=2, StudyInstanceUID="1.2.3"))
    assert c_move(server, "STUDY", StudyInstanceUID="1.2.3")[-1].status == SUCCESS
    server.wait_until(lambda: len(service.requests) == 4, what="tell all")
    by_path = {request["path"].split("?")[0]: request for request in service.requests}
    assert by_path["/get/1.2.3/x"]["line"] == "GET /get/1.2.3/x?to=DEST&from=MOVER&all=1 HTTP/1.1"
    post = by_path["/post"]
    assert json.loads(post["body"]) == {"uid": "1.2.3", "text": "{STUDY}", "list": [1, "77", None], "n": 5}
    assert {post["headers"][name] for name in ("authorization", "x-site", "content-type")} == {
        "Bearer t0ken",
        "here",
        "application/json",
    }
    everything = json.loads(by_path["/all"]["body"])
    assert everything["StudyInstanceUID"] == "1.2.3"
    assert everything["RequestID"] == post["headers"]["idempotency-key"]
    assert by_path["/all"]["headers"]["authorization"] == "Basic dTpwOnc="
    assert by_path["/after"]["path"] == "/after?state=done&n=2&done=2"
    found = last(server)
    assert (found["State"], found["Instances"], found["Completed"]) == ("done", 2, 2)
    server.wait_until(lambda: {each["State"] for each in last(server)["Notifications"]} == {"done"}, what="settle")
    server.wait_until(lambda: "cmove_interceptor_notifications_done 4 " in metrics(server), what="measure")
    assert "cmove_interceptor_moves_done 1 " in metrics(server)
    ledger = server.folder / "storage" / "cmove_interceptor.sqlite"
    assert not any(secret in ledger.read_bytes() for secret in (b"t0ken", b"p:w", b"dTpwOnc="))


NASTY = [
    "1.2&x=y",
    "1.2%26",
    'a"b',
    "a'b;",
    "a b+c",
    "a\r\nX-Evil: 1",
    "a/../../b",
    "..",
    "a#b?c",
    "{TargetAET}",
    "é😀",
    "a\x00b",
    "<&>",
]


@pytest.mark.parametrize("value", NASTY)
def test_no_value_reaches_beyond_its_place(orthanc_standin: StandIn, service: Service, value: str) -> None:
    script = orthanc_standin.load(SCRIPT)
    check_injection(script, service, value)


@given(value=st.text(max_size=20))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_at_all_reaches_beyond_its_place(orthanc_standin: StandIn, service: Service, value: str) -> None:
    check_injection(orthanc_standin.load(SCRIPT) if "script" not in LOADED else LOADED["script"], service, value)


LOADED: dict[str, ModuleType] = {}


def check_injection(script: ModuleType, service: Service, value: str) -> None:
    LOADED["script"] = script
    values = {"RequestID": "id", "StudyInstanceUID": value, "TargetAET": value}
    template = f"{service.url}/a/{{StudyInstanceUID}}/b?x={{TargetAET}}&y=1"
    caller = script.Caller(script.Service(url=template, method="POST", body={"v": "{StudyInstanceUID}"}))
    service.requests.clear()
    caller.send(caller.prepared(values), 5)
    (request,) = service.requests
    path, _, query = request["path"].partition("?")
    assert [urllib.parse.unquote(part, errors="surrogatepass") for part in path.split("/")] == ["", "a", value, "b"]
    assert ".." not in path.split("/")
    assert urllib.parse.parse_qs(query, keep_blank_values=True, errors="surrogatepass") == {"x": [value], "y": ["1"]}
    assert json.loads(request["body"]) == {"v": value}
    assert "x-evil" not in request["headers"]


@pytest.mark.parametrize("value", ["A&b=c", "A%20'\"B", "A B;C#D", "A{TargetAET}"])
def test_a_real_request_with_such_identifiers_is_told_and_logged_in_one_piece(
    start_briefly: StartOrthanc, destination: Destination, service: Service, value: str
) -> None:
    section = {"Notify": [{"Url": f"{service.url}/x?id={{PatientID}}&who={{OriginatorAET}}"}]}
    server = start_briefly(SCRIPT, configuration(destination, section))
    server.store(make_study(patient_id=value))
    assert c_move(server, "PATIENT", PatientID=value, aet="M&V=R%\"'")[-1].status == SUCCESS
    server.wait_until(lambda: len(service.requests) == 1, what="tell")
    query = urllib.parse.parse_qs(service.requests[0]["path"].partition("?")[2])
    assert query == {"id": [value], "who": ["M&V=R%\"'"]}


def test_a_log_line_is_never_made_up_by_a_sender(orthanc_standin: StandIn) -> None:
    script = orthanc_standin.load(SCRIPT)
    fields = {**dict.fromkeys(script.FIELDS, ""), "PatientID": "a\nE1121 fake\r\x1b[31m"}
    assert "\n" not in script.described(fields)
    assert "\x1b" not in script.described(fields)


def test_redirects_are_not_followed(start_briefly: StartOrthanc, destination: Destination, service: Service) -> None:
    other = Service()
    service.status, service.location = 302, f"{other.url}/elsewhere"
    server = start_briefly(SCRIPT, configuration(destination, {"Notify": [{"Url": service.url, "Required": True}]}))
    server.store(make_study(patient_id="P1"))
    assert c_move(server, "PATIENT", PatientID="P1")[-1].status == (UNABLE if has_counts(server) else WARNING)
    assert (other.requests, destination.received) == ([], [])
    assert "answered 302" in last(server)["Error"]
    other.close()


def test_a_notification_survives_a_dead_service_and_a_kill(
    start_briefly: StartOrthanc, destination: Destination, service: Service
) -> None:
    service.status = 503
    notify = [
        {"Name": when, "Url": f"{service.url}/{when}/{{PatientID}}", "When": when} for when in ("before", "after")
    ]
    server = start_briefly(script_with(SCRIPT, SOON), configuration(destination, {"Notify": notify}))
    server.store(make_study(patient_id="P1"))
    assert c_move(server, "PATIENT", PatientID="P1")[-1].status == SUCCESS
    server.wait_until(lambda: len(service.requests) >= 1, what="try")
    server.kill()
    service.requests.clear()
    service.status = 200
    server.start()
    server.wait_until(lambda: len(service.requests) == 2, what="tell")
    server.wait_until(lambda: {each["State"] for each in last(server)["Notifications"]} == {"done"}, what="settle")
    assert sorted(request["path"] for request in service.requests) == ["/after/P1", "/before/P1"]
    assert {request["headers"]["idempotency-key"] for request in service.requests} == {last(server)["RequestID"]}


@pytest.mark.parametrize("how", ["refuses", "hangs", "is away"])
def test_a_required_service_that_does_not_agree_fails_the_move(
    start_briefly: StartOrthanc, destination: Destination, service: Service, how: str
) -> None:
    url = service.url
    if how == "refuses":
        service.status = 403
    elif how == "hangs":
        service.hang.clear()
    else:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    server = start_briefly(
        SCRIPT, configuration(destination, {"Notify": [{"Url": url, "Required": True, "Timeout": 1}]})
    )
    server.store(make_study(patient_id="P1"))
    assert c_move(server, "PATIENT", PatientID="P1")[-1].status == (UNABLE if has_counts(server) else WARNING)
    assert destination.received == []
    assert last(server)["State"] == "failed"
    assert {"refuses": "answered 403", "hangs": "did not answer within 1 s", "is away": "Refused"}[how] in last(server)[
        "Error"
    ]
    service.hang.set()
    service.status = 200
    if how != "is away":
        assert c_move(server, "PATIENT", PatientID="P1")[-1].status == SUCCESS


def test_twenty_moves_past_a_service_that_hangs_all_arrive_and_it_is_told_when_it_listens(
    start_briefly: StartOrthanc, destination: Destination, service: Service
) -> None:
    service.hang.clear()
    entry = {"Url": service.url, "Timeout": 60}
    section = {"Notify": [entry, {**entry, "Name": "after", "When": "after"}]}
    server = start_briefly(SCRIPT, configuration(destination, section))
    server.store(make_study(patient_id="P1", instances=10))
    with ThreadPoolExecutor(21) as pool:
        moves = [pool.submit(c_move, server, "PATIENT", PatientID="P1") for _ in range(20)]
        assert pool.submit(echo, server).result() == SUCCESS
        assert {move.result()[-1].status for move in moves} == {SUCCESS}
    assert len(destination.take()) == 200
    assert service.requests == []  # it hangs all the while
    service.hang.set()
    server.wait_until(lambda: len(service.requests) == 40, what="tell of all")


def test_a_move_that_a_kill_interrupts_is_told_of_and_not_carried_on(
    start_briefly: StartOrthanc, destination: Destination, service: Service
) -> None:
    notify = {"Url": f"{service.url}/{{State}}?n={{Instances}}&done={{Completed}}", "When": "after"}
    server = start_briefly(SCRIPT, configuration(destination, {"Notify": [notify]}, DicomScuTimeout=120))
    server.store(make_study(patient_id="P1", instances=100, series=2))
    destination.pause = 1
    with ThreadPoolExecutor(1) as pool:
        caller = pool.submit(c_move, server, "PATIENT", PatientID="P1")
        asked = "/cmove-interceptor/requests"
        server.wait_until(
            lambda: [item for item in server.get(asked)["Items"] if len(item.get("Jobs", [])) == 2],
            what="begin to send",
        )
        server.kill()
        caller.exception()  # whatever it is that the caller sees
    server.start()
    server.wait_until(lambda: service.requests, what="tell")
    assert [request["path"] for request in service.requests] == ["/interrupted?n=200&done="]
    found = last(server)
    assert (found["State"], found["Completed"], found["Error"]) == (
        "interrupted",
        None,
        "Orthanc ended during the move",
    )
    server.wait_until(lambda: not unfinished_jobs(server), what="cancel the jobs")
    assert len(destination.take()) < 200
    server.kill()
    server.start()
    assert last(server)["State"] == "interrupted"
    assert len(service.requests) == 1


def unfinished_jobs(server: OrthancServer) -> list[str]:
    return [job["ID"] for job in server.get("/jobs?expand") if job["State"] in ("Pending", "Running", "Retry")]


def test_tls_is_verified_and_a_client_certificate_shown(
    start_briefly: StartOrthanc, destination: Destination, certificate: Path
) -> None:
    service = Service(certificate, client_ca=certificate)
    good = {
        "Url": f"{service.url}/{{PatientID}}",
        "CaFile": str(certificate),
        "CertificateFile": str(certificate),
        "Required": True,
    }
    server = start_briefly(SCRIPT, configuration(destination, {"Notify": [good]}))
    server.store(make_study(patient_id="P1"))
    assert c_move(server, "PATIENT", PatientID="P1")[-1].status == SUCCESS
    assert [request["path"] for request in service.requests] == ["/P1"]
    for wrong in ({"CaFile": None}, {"CertificateFile": None}):
        server.kill()
        server.configuration["CMoveInterceptor"] = {"Notify": [{**good, **wrong}]}
        server.start()
        assert c_move(server, "PATIENT", PatientID="P1")[-1].status != SUCCESS
    assert len(service.requests) == 1
    service.close()


# Modes and rules


def test_notify_answers_success_and_sends_nothing(
    start_orthanc: StartOrthanc, destination: Destination, service: Service
) -> None:
    section = {
        "Mode": "notify",
        "Notify": [{"Url": service.url}],
        "Rules": [{"Mode": "move", "OriginatorAETs": ["TRUST*"]}],
    }
    server = start_orthanc(SCRIPT, configuration(destination, section))
    server.store(make_study(patient_id="P1"))
    for level, key in KEYS.items():
        uids = identifiers(server, "P1")
        assert c_move(server, level, "ANYBODY", **{key: uids[level][0]})[-1].status == SUCCESS
    assert c_move(server, "PATIENT", PatientID="NOT HERE")[-1].status == SUCCESS
    assert destination.received == []
    server.wait_until(lambda: len(service.requests) == 5, what="tell")
    assert c_move(server, "PATIENT", PatientID="P1", aet="TRUSTED")[-1].status == SUCCESS
    assert len(destination.received) == 1


@pytest.mark.parametrize(
    ("rule", "fields", "fits"),
    [
        ({}, {}, True),
        ({"levels": ("STUDY",)}, {}, True),
        ({"levels": ("SERIES", "INSTANCE")}, {}, False),
        ({"target_aets": ("A", "DE?T")}, {}, True),
        ({"target_aets": ("de?t",)}, {}, False),
        ({"originator_aets": ("WS*",)}, {}, True),
        ({"identifiers": {"PatientID": "R*"}}, {"PatientID": "R1\\R2"}, True),
        ({"identifiers": {"PatientID": "R*"}}, {"PatientID": "R1\\X2"}, False),
        ({"identifiers": {"PatientID": "R*"}}, {"PatientID": ""}, False),
        ({"identifiers": {"PatientID": "R.*"}}, {"PatientID": "Rx"}, False),
    ],
)
def test_a_rule_fits_what_it_says(
    orthanc_standin: StandIn, rule: dict[str, Any], fields: dict[str, str], fits: bool
) -> None:
    script = orthanc_standin.load(SCRIPT)
    base = {
        **dict.fromkeys(script.FIELDS, ""),
        "Level": "STUDY",
        "TargetAET": "DEST",
        "OriginatorAET": "WS1",
        "PatientID": "R1",
    }
    found = script.mode_of({**base, **fields}, script.Settings(rules=(script.Rule(mode="notify", **rule),)))
    assert found == ("notify" if fits else "move")


@pytest.fixture(scope="module")
def far(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    """An Orthanc that has what others have not."""
    server = start_orthanc_for_module(None, {"DicomAlwaysAllowMove": True, "DicomAlwaysAllowFind": True}, aet="FAR")
    for level in KEYS:
        server.store(make_study(patient_id=level, instances=4))
    return server


@pytest.fixture(scope="module", params=["modality", "peer"])
def fetching(
    request: pytest.FixtureRequest,
    start_orthanc_for_module: StartOrthanc,
    far: OrthancServer,
    shared_destination: Destination,
) -> OrthancServer:
    """An Orthanc that fetches from there what it has not, and does not keep it."""
    away = Destination("AWAY")
    away.close()
    modalities = {"dest": shared_destination.as_modality(), "far": far.as_modality(), "away": away.as_modality()}
    section = {"Mode": "fetch", "Fetch": {"From": ["modality:away", f"{request.param}:far"], "Keep": False}}
    more = {"DicomModalities": modalities, "OrthancPeers": {"far": far.as_peer()}}
    server = start_orthanc_for_module(SCRIPT, {**configuration(shared_destination, section), **more}, aet=request.param)
    far.put(f"/modalities/{request.param}", server.as_modality())
    return server


@pytest.mark.parametrize("level", list(KEYS))
def test_fetch_gets_what_is_missing_and_moves_it(
    far: OrthancServer, fetching: OrthancServer, shared_destination: Destination, level: str
) -> None:
    if level != "IMAGE":
        fetching.store(make_study(patient_id=level, instances=4)[0])
    before = fetching.get("/instances")
    uids = identifiers(far, level)
    parents = {"PatientID": level, "StudyInstanceUID": uids["STUDY"][0], "SeriesInstanceUID": uids["SERIES"][0]}
    keys = {**parents, KEYS[level]: uids[level][0]}
    assert c_move(fetching, level, **keys)[-1].status == SUCCESS
    assert len(shared_destination.take()) == (1 if level == "IMAGE" else 4)
    assert fetching.get("/instances") == before  # what was fetched is not kept


def test_two_fetch_at_once_and_a_third_fails_at_once(
    start_briefly: StartOrthanc, destination: Destination, service: Service
) -> None:
    service.hang.clear()  # a peer that accepts, and says nothing
    service.answer = b"[]"
    peers = {"OrthancPeers": {"slow": [service.url]}}
    section = {"Mode": "fetch", "Fetch": {"From": ["peer:slow"]}}
    server = start_briefly(SCRIPT, configuration(destination, section, **peers))
    server.store(make_study(patient_id="P1"))
    with ThreadPoolExecutor(2) as pool:
        two = [pool.submit(c_move, server, "PATIENT", PatientID="P1") for _ in range(2)]
        server.wait_until(lambda: service.asked == 2, what="fetch twice")
        assert c_move(server, "PATIENT", PatientID="P1")[-1].status == (UNABLE if has_counts(server) else WARNING)
        assert (last(server)["State"], service.asked) == ("failed", 2)
        assert last(server)["Error"] == "2 other requests are being fetched already"
        service.hang.set()
        assert {move.result()[-1].status for move in two} == {SUCCESS}
    assert len(destination.received) == 2
    service.answer = b"<html>"  # what is here is moved, whatever a peer says
    assert c_move(server, "PATIENT", PatientID="P1")[-1].status == SUCCESS


def test_fetch_has_a_time_limit_and_moves_what_is_here(start_briefly: StartOrthanc, destination: Destination) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        modalities = {"dest": destination.as_modality(), "silent": ["SILENT", "127.0.0.1", silent.getsockname()[1]]}
        section = {"Mode": "fetch", "Fetch": {"From": ["modality:silent"], "Seconds": 2}}
        server = start_briefly(
            SCRIPT,
            {
                "DicomModalities": modalities,
                "CMoveInterceptor": section,
                "DicomScuTimeout": 2,
                "DicomAlwaysAllowMove": True,
            },
        )
        server.store(make_study(patient_id="P1"))
        assert c_move(server, "PATIENT", PatientID="P1")[-1].status == SUCCESS
    assert len(destination.received) == 1


# Configuration


@pytest.mark.parametrize(
    "section",
    [
        {"Mode": "relay"},
        {"Notify": [{}]},
        {"Notify": [{"Url": "ftp://x/"}]},
        {"Notify": [{"Url": "http://{TargetAET}/x"}]},
        {"Notify": [{"Url": "http://host:{OriginatorID}/x"}]},
        {"Notify": [{"Url": "{Level}://host/x"}]},
        {"Notify": [{"Url": "http://user:secret@host/x"}]},
        {"Notify": [{"Url": "http://host/{PatientName}"}]},
        {"Notify": [{"Url": "http://host/{PatientID"}]},
        {"Notify": [{"Url": "http://host/a b"}]},
        {"Notify": [{"Url": "http://host/{State}"}]},
        {"Notify": [{"Url": "http://host/", "Body": {"a": "{X}"}, "Method": "POST"}]},
        {"Notify": [{"Url": "http://host/", "Body": {}}]},
        {"Notify": [{"Url": "http://host/", "Method": "PUT"}]},
        {"Notify": [{"Url": "http://host/", "Headers": {"A": "b\r\nC: d"}}]},
        {"Notify": [{"Url": "http://host/", "When": "after", "Required": True}]},
        {"Notify": [{"Url": "https://host/", "CaFile": "/nowhere.pem"}]},
        {"Notify": [{"Url": "http://host/a"}, {"Url": "http://HOST/b", "When": "after"}]},
        {"Notify": [{"Url": "http://host/a", "Name": "a"}, {"Url": "http://other/", "Name": "a"}]},
        {"Notify": [{"Url": "http://host/a", "Name": "a\nb"}]},
        {"Notify": [{"Url": "http://host/a", "Name": ""}]},
        {"Rules": [{"Mode": "notify", "Identifiers": {"PatientName": "A"}}]},
        {"Mode": "fetch"},
        {"Mode": "fetch", "Fetch": {"From": ["PACS"]}},
    ],
    ids=json.dumps,
)
def test_a_wrong_configuration_is_told_and_leaves_orthancs_own_move_unless_it_holds_moves_back(
    orthanc_standin: StandIn, section: dict[str, Any]
) -> None:
    orthanc_standin.configuration = {"CMoveInterceptor": section}
    orthanc_standin.load(SCRIPT)
    answer = orthanc_standin.http("GET", "/cmove-interceptor/status")
    assert answer.status == 503
    assert any(level == "error" for level, _ in orthanc_standin.logs)
    assert "secret" not in str(orthanc_standin.logs) + answer.text
    holds_back = any(text in json.dumps(section) for text in ('"Required": true', '"notify"'))
    assert any("Move" in name for name in orthanc_standin.registered) == holds_back


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "since=x", "days=1"])
def test_a_list_is_asked_for_properly_or_it_is_a_400(pair: tuple[OrthancServer, OrthancServer], query: str) -> None:
    assert pair[1].request("GET", f"/cmove-interceptor/requests?{query}").status_code == 400


def test_requests_are_listed_newest_first_in_pages(
    pair: tuple[OrthancServer, OrthancServer], shared_destination: Destination
) -> None:
    server = pair[1]
    for patient in ("P1", "P2", "U1"):
        c_move(server, "PATIENT", PatientID=patient)
    shared_destination.take()
    page = server.get("/cmove-interceptor/requests", limit=2)
    assert [item["Request"]["PatientID"] for item in page["Items"]] == ["U1", "P2"]
    more = server.get("/cmove-interceptor/requests", limit=1, since=page["Next"])
    assert [item["Request"]["PatientID"] for item in more["Items"]] == ["P1"]


def test_combined_with_others_it_does_the_same(
    start_orthanc: StartOrthanc, destination: Destination, service: Service, tmp_path: Path
) -> None:
    combined = tmp_path / "combined.py"
    others = [SCRIPT.with_name("purge_old_studies.py")]
    subprocess.run([sys.executable, SCRIPT.with_name("combine.py"), SCRIPT, *others, "-o", combined], check=True)
    server = start_orthanc(combined, configuration(destination, {"Notify": [{"Url": f"{service.url}/{{PatientID}}"}]}))
    server.store(make_study(patient_id="P1", instances=5))
    answer = c_move(server, "PATIENT", PatientID="P1")[-1]
    assert answer.status == SUCCESS
    if has_counts(server):
        assert answer.completed == 5
    server.wait_until(lambda: len(service.requests) == 1, what="tell")
    assert len(destination.received) == 5


def test_allowing_threads_changes_nothing(start_orthanc: StartOrthanc, destination: Destination) -> None:
    server = start_orthanc(SCRIPT, configuration(destination, Python={"AllowThreads": True}))
    server.store(make_study(patient_id="P1", instances=5))
    assert c_move(server, "PATIENT", PatientID="P1")[-1].status == SUCCESS
    assert len(destination.received) == 5
