# SPDX-License-Identifier: AGPL-3.0-or-later
"""audit_log.py with an audit repository, on a real Orthanc: which messages come, and that none is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import OrthancServer, reserve_port
from tests.audit_log.atna import Repository, certificates, code, details, objects, wait
from tests.audit_log.test_audit_log import KEY, SCRIPT, USERS, wait_for_line


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def repository(files: Mapping[str, Path]) -> Iterator[Repository]:
    opened = Repository("tls", files)
    yield opened
    opened.close()


def configured(port: int, files: Mapping[str, Path], **more: Any) -> dict[str, Any]:
    syslog = {
        "Host": "127.0.0.1",
        "Port": port,
        "CaFile": str(files["authority"]),
        "CertificateFile": str(files["client"]),
        **more,
    }
    return {
        "Name": "ARCHIVE OF THE HOSPITAL",
        "AuditLog": {"Key": KEY, "WatchRequests": True, "To": "syslog", "Syslog": syslog},
        "AuthenticationEnabled": True,
        "RegisteredUsers": USERS,
        "StableAge": 3600,
    }


def of_patient(repository: Repository, kind: str, patient: str) -> Xml.Element:
    def found() -> Xml.Element | None:
        return next((each for each in repository.messages(kind) if objects(each).get("2") == patient), None)

    return wait(found)  # type: ignore[no-any-return]


def numbers(repository: Repository) -> list[int]:
    return [int(details(each)["Number"]) for each in repository.messages() if details(each)]


def test_each_event_has_its_message(
    start_orthanc: StartOrthanc, files: Mapping[str, Path], repository: Repository, storescp: StoreScp
) -> None:
    server = start_orthanc(SCRIPT, configured(repository.port, files))
    server.store_scu(make_study(patient_id="ARRIVES & <Ä>", instances=2), aet="SCANNER")
    message = of_patient(repository, "110104", "ARRIVES & <Ä>")
    parties = list(message.iter("ActiveParticipant"))
    assert [(each.attrib["UserID"], code(each, "RoleIDCode")) for each in parties] == [
        ("SCANNER", "110153"),
        ("ARCHIVE OF THE HOSPITAL", "110152"),
    ]
    assert parties[0].attrib["NetworkAccessPointID"] == "127.0.0.1"
    assert objects(message)["110180"] == wait_for_line(server, Patient="ARRIVES & <Ä>")["StudyInstanceUID"]

    study = server.store(make_study(patient_id="UPLOADED"))[0]["ParentStudy"]
    assert next(of_patient(repository, "110107", "UPLOADED").iter("ActiveParticipant")).attrib["UserID"] == "alice"
    bob = {"auth": ("bob", "builder")}
    server.put("/modalities/ARCHIVE", storescp.as_modality())
    server.post("/modalities/ARCHIVE/store", study)
    wait(lambda: [each for each in repository.messages("110104") if objects(each).get("2") == "UPLOADED"])
    instance = server.get(f"/studies/{study}/instances")[0]["ID"]
    server.request("GET", f"/instances/{instance}/preview", **bob)
    seen = of_patient(repository, "110103", "UPLOADED")
    assert next(seen.iter("ActiveParticipant")).attrib["UserID"] == "bob"
    server.request("GET", f"/instances/{instance}/file", **bob)
    of_patient(repository, "110106", "UPLOADED")
    server.post("/tools/find", {"Level": "Study", "Query": {"PatientID": "UP*"}})
    wait(lambda: repository.messages("110112"))
    server.get("/audit-log")
    wait(lambda: repository.messages("110101"))
    server.request("DELETE", f"/studies/{study}", **bob)
    gone = of_patient(repository, "110105", "UPLOADED")
    assert next(gone.iter("ActiveParticipant")).attrib["UserID"] == "bob"
    status = server.get("/audit-log/status")
    assert status["Syslog"]["To"] == f"tls://127.0.0.1:{repository.port}"
    assert server.stop() == 0
    kinds = [code(each, "EventTypeCode") for each in repository.messages("110100")]
    assert kinds == ["110120", "110121"]  # the last one too, before Orthanc was gone
    assert numbers(repository) == sorted(set(numbers(repository)))
    server.assert_not_logged(level="error")


def test_a_repository_that_is_away_is_one_line_and_gets_all_when_it_is_back(
    start_orthanc: StartOrthanc, files: Mapping[str, Path]
) -> None:
    with reserve_port() as held:
        port = held.getsockname()[1]
    server = start_orthanc(SCRIPT, configured(port, files))
    for number in range(60):
        server.store(make_study(patient_id=f"P{number}"))
    server.wait_for_log("can't send to tls://127.0.0.1")
    wait_for_line(server, Event="received", Patient="P59")
    status = server.get("/audit-log/status")
    assert status["Syslog"]["Owed"] >= 60
    assert "can't send to" in status["Reason"]
    server.kill()  # nothing is lost by that, either
    server.start()
    server.wait_until(lambda: server.log.count("can't send to") == 2, what="miss the repository after the start too")
    back = Repository("tls", files, port)
    try:
        wait(lambda: {objects(each).get("2") for each in back.messages("110107")} >= {f"P{n}" for n in range(60)}, 40)
        server.wait_for_log("audit_log goes on, this is over")
        wait(lambda: server.get("/audit-log/status")["Syslog"]["Owed"] == 0)
        assert server.log.count("can't send to") == 2  # one of each start
        assert numbers(back) == sorted(set(numbers(back)))
        assert server.get("/audit-log/status")["Reason"] is None
    finally:
        server.stop()
        back.close()


def test_what_a_repository_had_not_read_when_it_went_is_sent_again(
    start_orthanc: StartOrthanc, files: Mapping[str, Path], repository: Repository
) -> None:
    repository.breaks_off = True
    configuration = configured(repository.port, files)
    # What came right before a kill may have a second line, found at the start: here that would hide what is asked.
    configuration["AuditLog"]["Reconcile"] = False
    server = start_orthanc(SCRIPT, configuration)
    server.store(make_study(patient_id="AGAIN"))
    wait(lambda: repository.connections >= 2)
    server.wait_for_log("can't send to tls://")
    assert repository.raw == []
    repository.breaks_off = False
    of_patient(repository, "110107", "AGAIN")
    server.kill()
    before = wait(lambda: len(repository.raw))
    server.start()
    server.store(make_study(patient_id="LATER"))
    of_patient(repository, "110107", "LATER")
    assert len(repository.raw) > before
    assert len([each for each in repository.messages("110107") if objects(each)["2"] == "AGAIN"]) == 1


@pytest.mark.parametrize("wrong", [{"CaFile": "stranger"}, {"CertificateFile": None}, {"Host": "localhost"}])
def test_nobody_else_is_told_anything(
    start_orthanc: StartOrthanc, files: Mapping[str, Path], repository: Repository, wrong: dict[str, Any]
) -> None:
    """Another authority than ours, no certificate of our own, and a name that is not in the repository's certificate."""
    change = {key: str(files[value]) if value in files else value for key, value in wrong.items()}
    server = start_orthanc(SCRIPT, configured(repository.port, files, **change))
    server.store(make_study())
    server.wait_for_log("can't send to tls://")
    assert repository.raw == []


def test_over_udp_too(start_orthanc: StartOrthanc) -> None:
    receiver = Repository("udp")
    syslog = {"Host": "127.0.0.1", "Port": receiver.port, "Protocol": "udp", "AuditSource": "OURS"}
    server: OrthancServer = start_orthanc(SCRIPT, {"AuditLog": {"Key": KEY, "To": "syslog", "Syslog": syslog}})
    try:
        server.store(make_study(patient_id="BY DATAGRAM"))
        message = of_patient(receiver, "110107", "BY DATAGRAM")
        assert next(message.iter("AuditSourceIdentification")).attrib["AuditSourceID"] == "OURS"
        receiver.close()
        server.store(make_study(patient_id="REFUSED"))
        server.wait_for_log("can't send to udp://")
        receiver = Repository("udp", port=receiver.port)
        of_patient(receiver, "110107", "REFUSED")
    finally:
        receiver.close()


def test_kills_in_the_middle_lose_nothing_and_repeat_one_batch_at_most(
    start_orthanc: StartOrthanc, files: Mapping[str, Path], repository: Repository
) -> None:
    server = start_orthanc(SCRIPT, configured(repository.port, files))
    patients = []
    for kill in range(3):
        for number in range(70):
            patients.append(f"K{kill}-{number}")
            server.store(make_study(patient_id=patients[-1]))
        wait_for_line(server, Event="received", Patient=patients[-1])
        server.kill()
        server.start()
    last = server.store(make_study(patient_id="LAST"))[0]
    assert last["Status"] == "Success"
    of_patient(repository, "110107", "LAST")
    assert {objects(each)["2"] for each in repository.messages("110107")} == {*patients, "LAST"}
    found = numbers(repository)
    assert len(found) - len(set(found)) <= 3 * 50
