# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py keeps what another script of the same Orthanc has not delivered, and says so."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.purge_old_studies.helpers import SCRIPT, ended
from tests.scripts import combine_scripts

ROOT = SCRIPT.parent
AWAY = {"PACS": ["PACS", "127.0.0.1", 1]}
FORWARDING = {"DicomModalities": AWAY, "AutoForwardModality": {"Rules": []}, "StableAge": 1}
PURGE = {"since": "20200101", "dry-run": False}
NAME = "/auto-forward-modality"
REASON = "auto_forward_modality has not delivered it"


@pytest.fixture
def combined(tmp_path: Path) -> Path:
    """The purge with three scripts that deliver, as one."""
    scripts = [ROOT / f"{name}.py" for name in ("auto_forward_modality", "anonymize_series", "auto_retries")]
    path = tmp_path / "combined.py"
    return combine_scripts(SCRIPT, *scripts, to=path)


def store(server: OrthancServer, patient: str, date: str = "20010101", **more: Any) -> str:
    return str(server.store(make_study(patient_id=patient, study_date=date, **more))[0]["ParentStudy"])


def is_dropped(server: OrthancServer, delivery: str) -> bool:
    return server.request("DELETE", delivery).ok


def send(server: OrthancServer, resource: str, level: str = "Study") -> None:
    server.wait_until(lambda: server.request("GET", f"{NAME}/status").ok, what="start")
    server.post(f"{NAME}/send", {"Resource": resource, "Level": level, "Destinations": ["PACS"]})


def test_what_a_forwarder_still_has_to_send_stays_at_whatever_level_and_the_answers_say_so(
    start_briefly: StartOrthanc, combined: Path
) -> None:
    server = start_briefly(combined, FORWARDING)
    by_study, by_series, other = (store(server, name, series=2) for name in ("A", "B", "C"))
    of_patient = [store(server, "D", seed=seed) for seed in (1, 2)]
    send(server, by_study)
    send(server, server.get(f"/studies/{by_series}")["Series"][0], "Series")
    send(server, server.get(f"/studies/{of_patient[0]}")["ParentPatient"], "Patient")
    asked = {"Resources": [by_study, by_series, other, *of_patient]}
    assert server.post(f"{NAME}/owed", asked) == {"Owed": sorted([by_study, by_series])}
    dry = server.post("/purge-old-studies", {**PURGE, "dry-run": True, "format": "json"})
    assert (dry["Studies"], dry["Undelivered"]) == (1, {REASON: 4})
    assert f"Undelivered: {REASON} 4\n" in server.post("/purge-old-studies", {**PURGE, "dry-run": True})
    assert server.post("/purge-old-studies", PURGE) == (
        f"Purged 1 study dated on or before 20200101; 4 studies stay: {REASON}\n"
    )
    assert sorted(server.get("/studies")) == sorted([by_study, by_series, *of_patient])
    server.assert_logged(f"purge_old_studies: 4 studies stay: {REASON}", "warning")
    assert ended(server, 1)["Undelivered"] == {REASON: 4}
    for row in server.get(f"{NAME}/deliveries")["Items"]:
        path = f"{NAME}/deliveries/{row['ID']}"
        server.wait_until(functools.partial(is_dropped, server, path), what="drop a delivery")
    assert server.post("/purge-old-studies", {**PURGE, "format": "json"}) == {"Deleted": 4, "Since": "20200101"}


def test_what_has_just_arrived_and_is_not_routed_yet_stays(start_briefly: StartOrthanc, combined: Path) -> None:
    server = start_briefly(combined, {"DicomModalities": AWAY, "AutoForwardModality": {}, "StableAge": 3600})
    server.wait_until(lambda: server.request("GET", f"{NAME}/status").ok, what="start")
    study = store(server, "A")
    answer = server.wait_until(
        lambda: (found := server.request("POST", "/purge-old-studies", json=PURGE)).ok and found, what="purge"
    )
    assert answer.text.endswith(f"; 1 study stays: {REASON}\n")
    assert server.get("/studies") == [study]


def test_what_the_anonymizer_and_auto_retries_have_to_do_stays(start_briefly: StartOrthanc, combined: Path) -> None:
    recipes = {"away": {"Modality": "PACS", "AllowNonImages": True}}
    anonymizing = {"Secret": "0123456789abcdef" * 2, "Recipes": recipes}
    server = start_briefly(combined, {**FORWARDING, "AnonymizeSeries": anonymizing})
    by_anonymizer, by_retries, other = (store(server, name, series=2) for name in "ABC")
    server.wait_until(lambda: server.request("GET", "/anonymize-series/status").ok, what="start")
    server.post(f"/anonymize-series/{server.get(f'/studies/{by_anonymizer}')['Series'][0]}", {"Recipe": "away"})
    instance = server.get(f"/studies/{by_retries}/instances")[0]["ID"]
    server.post("/modalities/PACS/store", {"Resources": [instance], "Synchronous": False})
    server.wait_until(
        lambda: server.get("/auto-retries/jobs", state="waiting")["Total"] >= 1, 60, "take the failed job"
    )
    server.wait_until(
        lambda: server.get("/anonymize-series/jobs", state="waiting")["Total"] == 1, what="fail to send the copy"
    )
    dry = server.post("/purge-old-studies", {**PURGE, "dry-run": True, "format": "json", "Query": {"PatientID": "?"}})
    assert (dry["Studies"], set(dry["Undelivered"])) == (
        1,
        {"anonymize_series has not delivered it", "auto_retries has not delivered it"},
    )
    server.post("/purge-old-studies", {**PURGE, "Query": {"PatientID": "?"}})
    assert {by_anonymizer, by_retries} <= set(server.get("/studies"))
    assert other not in server.get("/studies")


def test_a_script_that_is_there_and_can_not_say_keeps_all_and_one_that_is_unused_nothing(
    start_briefly: StartOrthanc, combined: Path
) -> None:
    server = start_briefly(combined, {**FORWARDING, "AutoRetries": {"Type": []}})  # anonymize_series has no section
    study = store(server, "A")
    server.wait_until(lambda: server.request("GET", f"{NAME}/status").ok, what="start")
    dry = server.post("/purge-old-studies", {**PURGE, "dry-run": True, "format": "json"})
    [reason] = dry["Undelivered"]
    assert reason.startswith("auto_retries can't say whether it has delivered it: ")
    assert "AutoRetries.Type is not a known key" in reason
    assert server.post("/purge-old-studies", PURGE).endswith(f"; 1 study stays: {reason}\n")
    assert server.get("/studies") == [study]


@pytest.mark.parametrize("section", [None, {"KeepUndelivered": False}], ids=["alone", "not asked"])
def test_alone_and_where_it_is_not_wanted_nobody_is_asked(
    start_briefly: StartOrthanc, combined: Path, section: dict[str, Any] | None
) -> None:
    more = FORWARDING if section else {}
    server = start_briefly(combined if section else SCRIPT, {**more, "PurgeOldStudies": section or {}})
    study = store(server, "A")
    if section:
        send(server, study)
    assert server.post("/purge-old-studies", PURGE) == "Purged 1 study dated on or before 20200101\n"
