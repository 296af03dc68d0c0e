# SPDX-License-Identifier: AGPL-3.0-or-later
"""cmove_interceptor.py: its modes, its rules, and images that it fetches first."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

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
    Service,
    c_move,
    configuration,
    has_counts,
    identifiers,
    last,
)


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
        ({"target_aets": ("de?t",)}, {}, True),
        ({"target_aets": ("DE?",)}, {}, False),
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
