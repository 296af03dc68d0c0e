# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py: which studies a day, an age, a query or a limit means."""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testing.dicom import make_study, uid
from testing.pytest_plugin import StartOrthanc
from tests.purge_old_studies.helpers import DATES, LIMITS, SCRIPT, dates_left, fill


def test_every_study_dated_on_or_before_the_day_goes_and_no_other(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT)
    fill(server, DATES)
    answer = server.request("GET", "/purge-old-studies", params={"since": "20000101"})
    assert (answer.status_code, answer.text.strip()) == (200, "Purged 3 studies dated on or before 20000101")
    assert dates_left(server) == sorted(set(DATES) - {"19981231", "19991231", "20000101"})
    assert server.request("GET", "/purge-old-studies", params={"since": "20000101"}).text == (
        "Purged 0 studies dated on or before 20000101\n"
    )


def test_more_studies_than_a_batch_all_go(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT)
    for number in range(130):  # and than are looked at together
        server.store(make_study(patient_id=f"P{number}", study_date="20010203"))
    assert server.get("/purge-old-studies", since="20010203", format="json")["Deleted"] == 130
    assert server.get("/studies") == []


@pytest.mark.parametrize(
    ("age", "today", "expected"),
    [("1d", "20240301", "20240229"), ("90d", "20260101", "20251003"), ("1m", "20240331", "20240229"),
     ("1m", "20230331", "20230228"), ("18m", "20240115", "20220715"), ("12m", "20240229", "20230228"),
     ("1y", "20240229", "20230228"), ("7y", "20261121", "20191121"), ("13m", "20240131", "20221231"),
     ("2025y", "20261121", "00011121"), ("2026y", "20261121", None), ("99999d", "20261121", "17530206"),
     ("0d", "20240301", None), ("7", "20240301", None), ("y", "20240301", None), ("7Y", "20240301", None),
     ("-7y", "20240301", None), ("7 y", "20240301", None), ("7y\n", "20240301", None), ("\u0667y", "20240301", None)],
)  # fmt: skip
def test_ages_are_calendar_months_and_years_back(
    script: ModuleType, age: str, today: str, expected: str | None
) -> None:
    found = script.day_back(age, datetime.date.fromisoformat(today))
    assert (found.strftime("%Y%m%d").zfill(8) if found else None) == expected


@given(text=st.text(max_size=12), day=st.dates())
@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_age_is_a_day_in_the_past_or_no_age(script: ModuleType, text: str, day: datetime.date) -> None:
    found = script.day_back(text, day)
    assert found is None or found < day


def test_by_age_the_same_days_go_as_by_the_day_it_means(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT)
    today = datetime.date.today()  # noqa: DTZ011
    days = [f"{today - datetime.timedelta(back):%Y%m%d}" for back in (0, 89, 90, 91, 400)]
    fill(server, days)
    assert server.post("/purge-old-studies", {"older-than": "90d", "dry-run": False, "format": "json"})["Deleted"] == 3
    assert dates_left(server) == sorted(days[:2])


def test_undated_studies_go_only_if_asked_for_and_by_their_arrival_if_that_is_asked_for(
    start_briefly: StartOrthanc,
) -> None:
    server = start_briefly(SCRIPT)
    fill(server, DATES)
    assert server.post("/purge-old-studies", {"since": "19990101", "dry-run": False, "undated": "received"}).startswith(
        "Purged 1 "
    )
    assert server.post("/purge-old-studies", {"since": "19990101", "dry-run": False, "undated": True}).startswith(
        "Purged 5 "
    )
    assert dates_left(server) == ["19991231", "20000101", "20000102", "20240101"]


def test_by_received_the_last_update_counts_in_the_servers_local_days(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT, environment={"TZ": "Pacific/Kiritimati"})  # UTC+14
    fill(server, ["20240101", "20240102", "", "19700101"])
    server.kill()
    with contextlib.closing(sqlite3.connect(server.folder / "storage" / "index")) as index, index:
        # 7 is LastUpdate, 3 in ResourceType a study; 20:00 UTC on the first is the second, over there.
        sql = (
            "UPDATE Metadata SET value=? WHERE type=7 AND id IN (SELECT id FROM Resources WHERE resourceType=1 AND id IN "
            "(SELECT id FROM MainDicomTags WHERE tagGroup=8 AND tagElement=32 AND value=?))"
        )
        index.execute(sql, ("20100101T200000", "20240101"))
        index.execute(sql, ("20100101T090000", "20240102"))
    server.start()
    assert server.get("/purge-old-studies", since="20100101", by="received", format="json")["Deleted"] == 1
    assert dates_left(server) == ["", "19700101", "20240101"]
    assert server.get("/purge-old-studies", since="20100102", by="received", format="json")["Deleted"] == 1
    assert dates_left(server) == ["", "19700101"]


def test_the_limit_takes_the_oldest_first(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT)
    fill(server, ["20030101", "20010101", "", "20020101", "20010101"])
    assert server.post(
        "/purge-old-studies", {"since": "20200101", "dry-run": False, "limit": 3, "undated": True}
    ).startswith("Purged 3 ")
    assert dates_left(server) == ["", "20030101"]


def test_a_query_narrows_as_in_dicom_with_regard_to_case(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT)
    for patient, modality, description in (
        ("a", "CT", "Head"),
        ("A", "MR", "head"),
        ("B", "CR", "Knee"),
        ("C", "US", ""),
    ):
        server.store(make_study(patient_id=patient, modality=modality, StudyDescription=description))

    def would_go(query: dict[str, str]) -> int:
        asked = {"since": "20240101", "Query": query, "dry-run": True, "format": "json"}
        return int(server.post("/purge-old-studies", asked)["Studies"])

    assert would_go({"ModalitiesInStudy": "CT\\CR"}) == 2
    assert would_go({"PatientID": "A"}) == 1
    assert would_go({"StudyDescription": "*ea*"}) == 2
    assert would_go({"StudyDescription": "H???"}) == 1
    assert would_go({"PatientID": "A\\B", "ModalitiesInStudy": "CR"}) == 1
    assert (
        server.post(
            "/purge-old-studies",
            {"since": "20240101", "dry-run": False, "Query": {"PatientID": "a", "StudyDescription": "head"}},
        )
    ).startswith("Purged 0 ")
    assert server.post(
        "/purge-old-studies", {"since": "20240101", "dry-run": False, "Query": {"PatientID": "a"}}
    ).startswith("Purged 1 ")
    assert sorted(study["PatientMainDicomTags"]["PatientID"] for study in server.get("/studies?expand")) == [
        "A",
        "B",
        "C",
    ]


@pytest.mark.parametrize("limits", [{}, LIMITS])
def test_a_dry_run_tells_what_would_go_and_nothing_goes(start_briefly: StartOrthanc, limits: dict[str, int]) -> None:
    server = start_briefly(SCRIPT, limits)
    for number, (date, modality) in enumerate([("19991231", "CT"), ("19990101", "MR"), ("20010101", "CT"), ("", "CR")]):
        server.store(
            make_study(
                patient_id=f"P{number}", study_date=date, modality=modality, instances=2, AccessionNumber=f"A{number}"
            )
        )
    server.store(
        make_study(
            patient_id="P1",
            study_date="19990101",
            modality="CT",
            StudyInstanceUID=str(uid(0, "P1")),
            SeriesInstanceUID="1.2.3",
        )
    )
    found = server.get("/purge-old-studies", **{"since": "20000101", "dry-run": "true", "format": "json"})
    sizes = [int(server.get(f"/studies/{study['ID']}/statistics")["DiskSize"]) for study in server.get("/studies?expand")
             if study["MainDicomTags"]["StudyDate"].startswith("199")]  # fmt: skip
    assert {name: found[name] for name in ("DryRun", "Studies", "Bytes", "Years", "Modalities", "Since")} == {
        "DryRun": True, "Studies": 2, "Bytes": sum(sizes), "Years": {"1999": 2}, "Modalities": {"CT": 2, "MR": 1},
        "Since": "20000101",
    }  # fmt: skip
    assert (found["First"]["StudyDate"], found["Last"]["StudyDate"]) == ("19990101", "19991231")
    assert found["Last"]["AccessionNumber"] == "A0"
    text = server.get("/purge-old-studies", **{"since": "20000101", "dry-run": "true"})
    assert "Studies: 2\n" in text
    assert len(server.get("/studies")) == 4
