# SPDX-License-Identifier: AGPL-3.0-or-later
"""cmove_interceptor.py: what services are told of moves, whatever happens to them or to Orthanc."""

from __future__ import annotations

import json
import re
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.cmove_interceptor.helpers import (
    SCRIPT,
    SOON,
    SUCCESS,
    UNABLE,
    WARNING,
    Destination,
    Service,
    c_move,
    configuration,
    has_counts,
    last,
    unfinished_jobs,
)
from tests.constants import script_with


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


def metrics(server: OrthancServer) -> str:
    return server.request("GET", "/tools/metrics-prometheus").text


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


def in_path(value: str) -> str:
    """What a value is in a path: as it is, but for dots that would climb, NUL and nothing at all."""
    parts = re.split(r"([/\\])", value.replace("\0", "_"))
    return "".join("_" * len(part) if part in (".", "..") else part for part in parts) or "_"


def check_injection(script: ModuleType, service: Service, value: str) -> None:
    LOADED["script"] = script
    values = {"RequestID": "id", "StudyInstanceUID": value, "TargetAET": value}
    template = f"{service.url}/a/{{StudyInstanceUID}}/b?x={{TargetAET}}&y=1"
    caller = script.Caller(script.Service(url=template, method="POST", body={"v": "{StudyInstanceUID}"}))
    service.requests.clear()
    caller.send(caller.prepared(values), 5)
    (request,) = service.requests
    path, _, query = request["path"].partition("?")
    parts = [urllib.parse.unquote(part, errors="surrogatepass") for part in path.split("/")]
    assert parts == ["", "a", in_path(value), "b"]
    assert {".", ".."}.isdisjoint(re.split(r"[/\\]", urllib.parse.unquote(path)))
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
