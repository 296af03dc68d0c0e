# SPDX-License-Identifier: AGPL-3.0-or-later
"""cmove_interceptor.py: images arrive once each, by several associations, at destinations that refuse or wait."""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelMove

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.cmove_interceptor.helpers import (
    KEYS,
    SCRIPT,
    SUCCESS,
    UNABLE,
    WARNING,
    Destination,
    c_move,
    configuration,
    has_counts,
    identifiers,
    last,
    unfinished_jobs,
)


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
    assert found["Error"].startswith("some of it can't be sent, was it deleted? POST /modalities/")


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
