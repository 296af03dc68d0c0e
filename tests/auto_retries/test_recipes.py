# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_retries.py on a real Orthanc: what is submitted anew, where, and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc, StoreScp
from tests.auto_retries.helpers import (
    ROOT,
    SCRIPT,
    failed,
    get,
    instances,
    jobs,
    knowing,
    make_orthanc_forget_its_jobs,
    send,
    states,
    store_old_study,
    store_study,
)
from tests.constants import QUICK, script_with
from tests.scripts import combine_scripts


def test_the_jobs_of_a_forward_script_are_left_alone(
    start_orthanc: StartOrthanc, storescp: StoreScp, tmp_path: Path
) -> None:
    combined, forwarder = tmp_path / "combined.py", script_with(ROOT / "auto_forward_modality.py", QUICK)
    combine_scripts(SCRIPT, forwarder, to=combined)
    other = start_orthanc(aet="OTHER", start=False)
    section = {"Destinations": [storescp.aet]}
    storescp.stop()
    source = start_orthanc(combined, {**knowing(storescp, other), "AutoForwardModality": section})
    study = store_study(source, patient_id="FORWARDED")

    def deliveries() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = get(source, "/auto-forward-modality/deliveries")["Items"]
        return items

    def failures() -> int:
        return sum(job["State"] == "Failure" for job in source.get("/jobs?expand"))

    source.wait_until(failures, what="forward in vain")
    sent = send(source, study, "OTHER")
    [item] = failed(source)
    assert item["FirstJob"] == sent
    source.kill()
    source.start()
    source.wait_until(failures, what="fail again after the kill")
    storescp.start()
    other.start()
    source.wait_until(lambda: [each["State"] for each in deliveries()] == ["done"], what="forward")
    source.wait_until(lambda: states(source) == ["done"], what="run the other's job again")
    assert [each["FirstJob"] for each in jobs(source)] == [sent]
    assert len(list(storescp.folder.glob("CT*"))) == 1


def test_a_c_move_is_run_again(start_orthanc: StartOrthanc) -> None:
    archive = start_orthanc(aet="ARCHIVE")
    source = start_orthanc(SCRIPT, knowing(archive))
    archive.configuration["DicomModalities"] = {"ORTHANC": source.as_modality()}
    archive.restart()
    store_study(archive, patient_id="P", instances=2)
    query = source.post("/modalities/ARCHIVE/query", {"Level": "Study", "Query": {"PatientID": "P"}})["ID"]
    archive.stop()
    source.post(f"/queries/{query}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": False})
    [item] = failed(source)
    assert item["Type"] == "DicomMoveScu"
    archive.start()
    source.wait_until(lambda: states(source) == ["done"], what="run it again")
    assert instances(source) == instances(archive)


def test_a_c_move_that_orthanc_has_forgotten_goes_anew_or_says_why_not(
    start_orthanc: StartOrthanc, orthanc_version: tuple[int, ...]
) -> None:
    archive = start_orthanc(aet="ARCHIVE")
    source = start_orthanc(SCRIPT, {**knowing(archive), "JobsHistorySize": 1})
    archive.configuration["DicomModalities"] = {"ORTHANC": source.as_modality()}
    archive.restart()
    moved = make_study(patient_id="P", instances=2)
    archive.store(moved)
    query = source.post("/modalities/ARCHIVE/query", {"Level": "Study", "Query": {"PatientID": "P"}})["ID"]
    archive.stop()
    store_study(source, patient_id="LOCAL")
    source.post(f"/queries/{query}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": False})
    [item] = failed(source)
    make_orthanc_forget_its_jobs(source)
    archive.start()
    if orthanc_version < (1, 11):  # 1.10.1 does not show where to
        source.wait_until(lambda: states(source) == ["dead"], what="give up")
        assert "not enough to submit it anew" in jobs(source)[0]["Error"]
    else:
        source.wait_until(lambda: states(source) == ["done"], what="run it again")
        assert jobs(source)[0]["Job"] != item["FirstJob"]
        assert instances(archive) < instances(source)


def test_a_c_get_goes_anew_where_orthanc_has_it(start_orthanc: StartOrthanc, orthanc_version: tuple[int, ...]) -> None:
    archive = start_orthanc(aet="ARCHIVE", configuration={"DicomAlwaysAllowGet": True})
    source = start_orthanc(SCRIPT, {**knowing(archive, Types=["DicomGetScu"]), "JobsHistorySize": 1})
    images = make_study(patient_id="P", instances=2)
    archive.store(images)
    wanted = {"StudyInstanceUID": archive.get("/studies?expand")[0]["MainDicomTags"]["StudyInstanceUID"]}
    body = {"Level": "Study", "Resources": [wanted], "Synchronous": False}
    store_study(source, patient_id="LOCAL")
    archive.stop()
    answer = source.request("POST", "/modalities/ARCHIVE/get", json=body)
    assert (answer.status_code == 404) == (orthanc_version < (1, 12, 7))
    if answer.ok:
        [item] = failed(source)
        make_orthanc_forget_its_jobs(source)
        archive.start()
        source.wait_until(lambda: states(source) == ["done"], what="run it again")
        assert jobs(source)[0]["Job"] != item["FirstJob"]
        assert instances(archive) < instances(source)


def test_only_the_types_of_the_configuration_are_run_again(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    source = start_orthanc(SCRIPT, knowing(destination, Types=["OrthancPeerStore"]))
    study = store_study(source)
    other = send(source, study, "DEST")
    source.wait_until(lambda: source.get(f"/jobs/{other}")["State"] == "Failure", what="fail")
    sent = send(source, study, "DEST", "peers")
    assert [item["FirstJob"] for item in failed(source)] == [sent]
    destination.start()
    source.wait_until(lambda: states(source) == ["done"], what="run it again")
    assert source.get(f"/jobs/{other}")["State"] == "Failure"


def test_a_peer_with_headers_and_a_timeout_is_known_by_its_url(start_orthanc: StartOrthanc) -> None:
    """Of such a peer Orthanc's jobs give an object, of others a list."""
    destination = start_orthanc(aet="DEST", start=False)
    peer = {"Url": destination.as_peer()[0], "HttpHeaders": {"X-Token": "t"}, "Timeout": 5}
    source = start_orthanc(SCRIPT, {**knowing(Types=["OrthancPeerStore"]), "OrthancPeers": {"DEST": peer}})
    send(source, store_study(source), "DEST", "peers")
    [item] = failed(source)
    assert item["Destination"] == "DEST"
    destination.start()
    source.wait_until(lambda: states(source) == ["done"], what="run it again")
    assert instances(destination) == instances(source)


def test_a_corrected_address_is_used_although_orthanc_still_knows_the_job(start_orthanc: StartOrthanc) -> None:
    wrong, right = start_orthanc(aet="DEST", start=False), start_orthanc(aet="DEST")
    source = start_orthanc(SCRIPT, knowing(wrong))
    study = store_study(source)
    send(source, study, "DEST")
    send(source, study, "DEST", "peers")
    failed(source, 2)
    source.put("/modalities/DEST", right.as_modality())
    source.put("/peers/DEST", right.as_peer())
    source.wait_until(lambda: states(source) == ["done", "done"], what="use the corrected address")
    assert instances(right) == instances(source)


def test_of_two_nodes_with_one_aet_it_is_the_same_again_or_none(start_orthanc: StartOrthanc) -> None:
    meant, other = start_orthanc(aet="TWIN", start=False), start_orthanc(aet="TWIN")
    nodes = {"MEANT": meant.as_modality(), "OTHER": other.as_modality()}
    configuration = {**knowing(), "DicomModalities": nodes, "JobsHistorySize": 1}
    source = start_orthanc(SCRIPT, configuration)
    study = store_old_study(source)
    send(source, study, "MEANT")
    [item] = failed(source)
    make_orthanc_forget_its_jobs(source)
    source.wait_until(lambda: "lead to different places" in jobs(source)[0]["Error"], what="see that it can't tell")
    assert item["Destination"] == "MEANT or OTHER"
    source.delete(f"/auto-retries/jobs/{item['ID']}")
    send(source, study, "MEANT")
    source.wait_until(lambda: states(source) == ["waiting"], what="take the second")
    meant.start()
    source.wait_until(lambda: states(source) == ["done"], what="resubmit what Orthanc knows")
    assert instances(meant) == instances(source)
    assert instances(other) == set()
