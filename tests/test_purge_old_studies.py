# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py on a real Orthanc."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st
from pydicom import Dataset

from testing.dicom import make_study, orthanc_identifier, uid
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn

SCRIPT = Path(__file__).parent.parent / "purge_old_studies.py"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

# Dates as archives have them: the empty one and those that are no days sort before 20000101 as text.
DATES = ["19981231", "19991231", "20000101", "20000102", "20240101", "", "1999", "1999.12.31", "19991301", "20000231"]


def fill(server: OrthancServer, dates: list[str]) -> None:
    for number, date in enumerate(dates):
        server.store(make_study(patient_id=f"P{number}", study_date=date, instances=2))


def dates_left(server: OrthancServer) -> list[str]:
    return sorted(study["MainDicomTags"].get("StudyDate", "") for study in server.get("/studies?expand"))


@pytest.fixture(scope="module")
def unharmed(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    """One archive for all that must not delete."""
    server = start_orthanc_for_module(SCRIPT)
    fill(server, ["19991231", "20240101"])
    return server


@pytest.fixture(autouse=True)
def _nothing_is_lost(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "unharmed" in request.fixturenames:
        assert dates_left(request.getfixturevalue("unharmed")) == ["19991231", "20240101"]


def test_every_study_dated_on_or_before_the_day_goes_and_no_other(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT)
    fill(server, DATES)
    answer = server.request("GET", "/purge-old-studies", params={"since": "20000101"})
    assert (answer.status_code, answer.text.strip()) == (200, "3")
    assert dates_left(server) == sorted(set(DATES) - {"19981231", "19991231", "20000101"})
    assert server.request("GET", "/purge-old-studies", params={"since": "20000101"}).text.strip() == "0"


def test_json_comes_by_format_and_by_accept(unharmed: OrthancServer) -> None:
    expected = {"Deleted": 0, "Since": "19000101"}
    for arguments in ({"params": {"since": "19000101", "format": "json"}}, {"headers": {"Accept": "application/json"}}):
        answer = unharmed.request("GET", "/purge-old-studies", **{"params": {"since": "19000101"}, **arguments})
        assert (answer.status_code, answer.json()) == (200, expected)


@pytest.mark.parametrize(
    "query",
    ["", "since=", "since=2000", "since=20000231", "since=2000-01-01", "since=99999999", "since=٢٠٠٠٠١٠١", "since=-20000101",
     "since=20000101%0A", "since=20200101&limit=0", "since=20200101&format=xml", "Since=20200101"],
)  # fmt: skip
def test_a_day_that_is_no_day_is_a_400_and_deletes_nothing(unharmed: OrthancServer, query: str) -> None:
    answer = unharmed.request("GET", f"/purge-old-studies?{query}")
    assert answer.status_code == 400
    assert answer.json()["Message"]


def test_a_day_yet_to_come_is_refused(unharmed: OrthancServer) -> None:
    tomorrow = datetime.date.today() + datetime.timedelta(days=1)  # noqa: DTZ011
    answer = unharmed.request("GET", "/purge-old-studies", params={"since": f"{tomorrow:%Y%m%d}"})
    assert answer.status_code == 400
    assert "yet to come" in answer.json()["Message"]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_other_methods_are_405_and_name_the_right_one(unharmed: OrthancServer, method: str) -> None:
    answer = unharmed.request(method, "/purge-old-studies?since=20240101")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET,POST")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none", "Sec-Purpose": "prefetch;prerender"},
    ],
)
def test_a_link_in_a_web_page_deletes_nothing_and_the_403_gives_the_command(
    unharmed: OrthancServer, headers: dict[str, str]
) -> None:
    answer = unharmed.request("GET", "/purge-old-studies?since=20240101", headers={"User-Agent": FIREFOX, **headers})
    assert answer.status_code == 403
    assert f"curl -u USER '{unharmed.url}/purge-old-studies?since=20240101'" in answer.json()["Message"]


def test_what_a_person_types_into_the_address_bar_works(unharmed: OrthancServer) -> None:
    headers = {"User-Agent": FIREFOX, "Sec-Fetch-Site": "none"}
    assert unharmed.request("GET", "/purge-old-studies?since=19000101", headers=headers).text.strip() == "0"


def test_more_studies_than_a_batch_all_go(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT)
    for number in range(130):  # and than are looked at together
        server.store(make_study(patient_id=f"P{number}", study_date="20010203"))
    assert server.get("/purge-old-studies", since="20010203", format="json")["Deleted"] == 130
    assert server.get("/studies") == []


def test_a_server_that_stands_open_is_told_so_at_start(start_briefly: StartOrthanc) -> None:
    server = start_briefly(
        SCRIPT, {"RemoteAccessAllowed": True, "AuthenticationEnabled": False, "HttpBindAddresses": ["127.0.0.1"]}
    )
    assert "whoever reaches this server may use its routes" in server.log


# Parameters


@pytest.fixture
def script(orthanc_standin: StandIn) -> ModuleType:
    return orthanc_standin.load(SCRIPT)


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


WRONG = [
    {},
    {"since": "20200101", "older-than": "7y"},
    {"since": 20200101},
    {"since": None},
    {"since": "20200101", "dryrun": True},
    {"since": "20200101", "dry-run": "yes"},
    {"since": "20200101", "dry-run": 1},
    {"since": "20200101", "limit": 0},
    {"since": "20200101", "limit": -3},
    {"since": "20200101", "limit": True},
    {"since": "20200101", "limit": 2.5},
    {"since": "20200101", "undated": "yes"},
    {"since": "20200101", "keep-received-days": -1},
    {"since": "20200101", "keep-received-days": 1.5},
    {"since": "20200101", "keep-received-days": True},
    {"since": "20200101", "keep-received-days": None},
    {"since": "20200101", "keep-received-days": 100_000},
    {"since": "20200101", "by": "ContentDate"},
    {"since": "20200101", "Query": {}, "query": {}},
    {"since": "20200101", "Query": "ModalitiesInStudy"},
    {"since": "20200101", "Query": {"Modality": "CT"}},
    {"since": "20200101", "Query": {"StudyDate": "2020"}},
    {"since": "20200101", "Query": {"ModalitiesInStudy": ""}},
    {"since": "20200101", "Query": {"ModalitiesInStudy": "C*"}},
    {"since": "20200101", "Query": {"PatientID": "*"}},
    {"since": "20200101", "Query": {"PatientID": "A\\"}},
    {"since": "20200101", "Query": {"PatientID": "A\\B*"}},
    {"since": "20200101", "Query": {"PatientID": 5}},
    {"since": "20200101", "Query": {"PatientBirthDate": "-19500101"}},
    {"since": "20200101", "Labels": []},
    {"since": "20200101", "Labels": [""]},
    {"since": "20200101", "LabelsConstraint": "All"},
    {"since": "20200101", "format": "xml"},
    {"older-than": "7"},
    {"older-than": "0d"},
    {"older-than": 7},
    {"older-than": "99999y"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=json.dumps)
def test_what_can_not_be_right_is_a_400_that_says_so_by_post_and_by_get(
    unharmed: OrthancServer, wrong: dict[str, Any]
) -> None:
    answer = unharmed.request("POST", "/purge-old-studies", json=wrong)
    assert (answer.status_code, bool(answer.json()["Message"])) == (400, True)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in wrong.items()}
    if (
        not isinstance(wrong.get("since", ""), int) and wrong.get("Labels") != []
    ):  # in a query these are fine, or a label
        assert unharmed.request("GET", "/purge-old-studies", params=texts).status_code == 400


@pytest.mark.parametrize(
    "body",
    [b'{"since": "20200101", "since": "19000101"}', b"[]", b"null", b'"20200101"', b"{", b"\xff", b"[" * 100_000,
     b'{"a": "' + b"]" * 1000 + b'", "b": ' + b"[" * 900,
     b"since=20200101", b'{"since": "20200101"} {}'],
)  # fmt: skip
def test_a_body_that_is_not_one_object_of_parameters_is_a_400(unharmed: OrthancServer, body: bytes) -> None:
    assert unharmed.request("POST", "/purge-old-studies", data=body).status_code == 400


NAMES = st.sampled_from(
    [
        "since",
        "older-than",
        "by",
        "Query",
        "Labels",
        "limit",
        "undated",
        "keep-received-days",
        "dry-run",
        "force",
        "async",
        "format",
        "x",
    ]
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8),
    st.sampled_from(["19000101", "20000101", "7y", "90d", "true", "json", '{"PatientID": "P0"}', "\x00", "%s", "'", "\uff19"]),
    st.dictionaries(st.sampled_from(["PatientID", "StudyDate", "x", ""]), st.text(max_size=5), max_size=2),
    st.lists(st.text(max_size=3), max_size=2),
)  # fmt: skip


@given(asked=st.dictionaries(NAMES, VALUES, max_size=4), by_get=st.booleans())
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parameters_made_up_at_random_never_give_a_500_and_never_delete(
    unharmed: OrthancServer, asked: dict[str, Any], by_get: bool
) -> None:
    asked["dry-run"] = asked.get("dry-run") if isinstance(asked.get("dry-run"), str) else True  # what is valid deletes
    if by_get:
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in asked.items()}
        answer = unharmed.request("GET", "/purge-old-studies", params=texts)
    else:
        answer = unharmed.request("POST", "/purge-old-studies", json=asked)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200 and asked.get("format") == "json":
        assert answer.json()["DryRun"]


# What goes


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
    assert server.post("/purge-old-studies", {"since": "19990101", "dry-run": False, "undated": "received"}) == 1
    assert server.post("/purge-old-studies", {"since": "19990101", "dry-run": False, "undated": True}) == 5
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
    assert server.post("/purge-old-studies", {"since": "20200101", "dry-run": False, "limit": 3, "undated": True}) == 3
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
        == 0
    )
    assert server.post("/purge-old-studies", {"since": "20240101", "dry-run": False, "Query": {"PatientID": "a"}}) == 1
    assert sorted(study["PatientMainDicomTags"]["PatientID"] for study in server.get("/studies?expand")) == [
        "A",
        "B",
        "C",
    ]


LIMITS = {"LimitFindResults": 1, "LimitFindInstances": 1}  # they cut what Orthanc answers to a search


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


# Guards


def test_protected_patients_labels_and_metadata_keep_a_study(
    start_briefly: StartOrthanc, orthanc_version: tuple[int, ...]
) -> None:
    labels = orthanc_version >= (1, 12, 0)
    server = start_briefly(
        SCRIPT,
        {"UserMetadata": {"Keep": 5000}, "PurgeOldStudies": {"KeepLabels": ["teaching"], "KeepMetadata": ["Keep"]}},
    )
    fill(server, ["20010101"] * 5)
    studies = {study["PatientMainDicomTags"]["PatientID"]: study for study in server.get("/studies?expand")}
    server.put(f"/patients/{studies['P0']['ParentPatient']}/protected", "1")
    server.put(f"/studies/{studies['P1']['ID']}/metadata/Keep", "whatever")
    if labels:
        server.put(f"/studies/{studies['P2']['ID']}/labels/teaching")
        server.put(f"/studies/{studies['P3']['ID']}/labels/old")
    assert server.post("/purge-old-studies", {"since": "20200101", "dry-run": False, "force": True}) == (
        2 if labels else 3
    )
    left = {study["PatientMainDicomTags"]["PatientID"] for study in server.get("/studies?expand")}
    assert left == ({"P0", "P1", "P2"} if labels else {"P0", "P1"})


PATIENTS = ["A1", "a1", "A*", "A?", "A 1", " B", "Müller", "", "C" * 64, *(f"D{number}" for number in range(40))]


@pytest.mark.parametrize("keeps", ["A1", "a1", "A*", "A?", "A 1", " B", "Müller", "", "C" * 64, "D7"])
def test_whoever_is_protected_is_kept_whatever_the_patient_id_and_nobody_else(
    start_briefly: StartOrthanc, keeps: str
) -> None:
    server = start_briefly(SCRIPT)
    patients = {
        patient: server.store(make_study(patient_id=patient, study_date="20010101"))[0]["ParentPatient"]
        for patient in PATIENTS
    }
    assert len(set(patients.values())) == len(PATIENTS)
    server.put(f"/patients/{patients[keeps]}/protected", "1")
    assert (
        server.post("/purge-old-studies", {"since": "20200101", "dry-run": False, "force": True}) == len(PATIENTS) - 1
    )
    assert server.get("/patients") == [patients[keeps]]


def test_labels_choose_where_orthanc_has_them_and_are_a_400_where_not(
    start_briefly: StartOrthanc, orthanc_version: tuple[int, ...]
) -> None:
    server = start_briefly(SCRIPT)
    fill(server, ["20010101"] * 4)
    asked: dict[str, Any] = {"since": "20200101", "Labels": ["a", "b"]}
    if orthanc_version < (1, 12, 0):
        assert server.request("POST", "/purge-old-studies", json=asked).status_code == 400
        return
    for study, labels in zip(sorted(server.get("/studies")), ("", "a", "b", "ab"), strict=True):
        for label in labels:
            server.put(f"/studies/{study}/labels/{label}")
    counts = {
        constraint: server.post(
            "/purge-old-studies", {**asked, "LabelsConstraint": constraint, "dry-run": True, "format": "json"}
        )["Studies"]
        for constraint in ("All", "Any", "None")
    }
    assert counts == {"All": 1, "Any": 3, "None": 1}
    assert server.get("/purge-old-studies", since="20200101", Labels="a,b") == 1


def test_more_than_max_studies_or_max_percent_is_refused_without_force(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT, {"PurgeOldStudies": {"MaxStudies": 3, "MaxPercent": 50}})
    fill(server, ["20010101", "20010102", "20010103", "20010104", "20240101", "20240102"])

    def ask(**more: Any) -> tuple[int, str]:
        answer = server.request("POST", "/purge-old-studies", json={"since": "20010104", "dry-run": False, **more})
        return answer.status_code, answer.text

    assert ask()[0] == 403
    assert "MaxStudies (3)" in ask()[1]
    assert ask(limit=3) == (200, "3\n")
    assert ask() == (200, "1\n")
    server.post("/purge-old-studies", {"since": "20240101", "dry-run": False})  # one of two: not more than half
    assert (
        "MaxPercent (50)"
        in server.request("POST", "/purge-old-studies", json={"since": "20240102", "dry-run": False}).text
    )
    assert len(server.get("/studies")) == 1
    assert server.post("/purge-old-studies", {"since": "20240102", "dry-run": False, "force": True}) == 1
    assert {"refused"} < {line["Event"] for line in server.get("/purge-old-studies/history")["Items"]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"PurgeOldStudies": {"MaxStudy": 3}},
        {"PurgeOldStudies": {"MaxPercent": 101}},
        {"PurgeOldStudies": {"MaxPercent": "5"}},
        {"PurgeOldStudies": {"KeepLabels": "teaching"}},
        {"PurgeOldStudies": {"KeepLabels": ["teaching cases"]}},
        {"PurgeOldStudies": {"KeepMetadata": ["NoSuchMetadata"]}},
        {"PurgeOldStudies": []},
        {"PurgeOldStudy": {"MaxStudies": 3}},
        {"purgeoldstudies": {"MaxStudies": 3}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7y"}]}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7y", "At": "2:30"}]}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7", "At": "02:30"}]}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7y", "At": "02:30", "Modality": "CT"}]}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7y", "At": "02:30", "Query": {"Modality": "CT"}}]}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7y", "At": "02:30", "Days": ["Sonntag"]}]}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7y", "At": "02:30", "Undated": "yes"}]}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7y", "At": "02:30"}] * 2}},
    ],
    ids=json.dumps,
)
def test_a_configuration_that_is_wrong_anywhere_purges_nothing(orthanc_standin: StandIn, wrong: dict[str, Any]) -> None:
    orthanc_standin.configuration = wrong
    orthanc_standin.load(SCRIPT)
    answer = orthanc_standin.http("GET", "/purge-old-studies?since=19000101")
    assert answer.status == 503
    assert next(iter(wrong)) in answer.json()["Message"]
    assert any(level == "error" for level, _ in orthanc_standin.logs), orthanc_standin.logs


def test_a_wrong_configuration_leaves_orthanc_running_and_is_told(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, {"PurgeOldStudies": {"MaxStudy": 3}})
    fill(server, ["19990101"])
    answer = server.request("GET", "/purge-old-studies", params={"since": "20200101"})
    assert answer.status_code == 503
    assert "did you mean MaxStudies?" in answer.json()["Message"]
    assert "did you mean MaxStudies?" in server.log
    assert dates_left(server) == ["19990101"]


# What happens meanwhile


def changed(**constants: float) -> str:
    """The script with other constants; it waits before each deletion while there is a file `hold`, and tells by `held`."""
    source = SCRIPT.read_text()
    for name, value in constants.items():
        source, count = re.subn(rf"(?m)^{name} = \S+", f"{name} = {value}", source)
        assert count == 1
    return source + WAITING


WAITING = """
def _held(delete):
    folder = Path(orthanc.GetConfigurationPath()).parent

    def held(*arguments):
        while (folder / "hold").exists():
            (folder / "held").touch()
            time.sleep(0.01)
        return delete(*arguments)

    return held


Archive.delete = _held(Archive.delete)
Archive.delete_in_pieces = _held(Archive.delete_in_pieces)
"""


def hold(server: OrthancServer) -> Callable[[], None]:
    """Deletions wait from now on, until what this returns is called."""
    (server.folder / "hold").touch()
    return (server.folder / "hold").unlink


def start_held(server: OrthancServer, **asked: Any) -> tuple[int, Callable[[], None]]:
    """An asynchronous purge that waits in its first deletion."""
    go_on = hold(server)
    answer = server.request(
        "POST", "/purge-old-studies", json={"since": "20200101", "dry-run": False, "async": True, **asked}
    )
    assert answer.status_code == 202
    server.wait_until((server.folder / "held").exists, what="begin to delete")
    return answer.json()["ID"], go_on


def job(server: OrthancServer, number: int) -> dict[str, Any]:
    return dict(server.get(f"/purge-old-studies/jobs/{number}"))


def ended(server: OrthancServer, number: int) -> dict[str, Any]:
    return dict(server.wait_until(lambda: (found := job(server, number))["Ended"] and found, what="end the purge"))


def deleted_in_history(server: OrthancServer) -> list[str]:
    lines = server.get("/purge-old-studies/history", limit=1000)["Items"]
    return sorted(line["ID"] for line in lines if line["Event"] == "deleted")


def test_a_study_that_fails_is_reported_and_the_others_go(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT)
    fill(server, ["20010101"] * 30)
    bad = server.get("/studies")[7]
    server.kill()
    with contextlib.closing(sqlite3.connect(server.folder / "storage" / "index")) as index:
        index.execute(
            f"CREATE TRIGGER refuses BEFORE DELETE ON Resources WHEN OLD.publicId='{bad}' "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
        index.commit()
    server.start()
    answer = server.request("GET", "/purge-old-studies", params={"since": "20200101"})
    found = answer.json()
    assert (answer.status_code, found["Deleted"], found["Failed"], found["Kept"]) == (500, 29, [bad], [])
    assert server.get("/studies") == [bad]
    assert job(server, found["Purge"])["NotDeleted"][0]["ID"] == bad
    assert [line["Event"] for line in server.get("/purge-old-studies/history")["Items"] if line.get("ID") == bad] == [
        "failed"
    ]


def test_what_changes_between_choice_and_deletion_is_kept(
    start_briefly: StartOrthanc, orthanc_version: tuple[int, ...]
) -> None:
    server = start_briefly(
        changed(WINDOW=1, STALE=0),
        {"PurgeOldStudies": {"KeepLabels": ["teaching"]}, "UserMetadata": {"Keep": 5000}},
    )
    fill(server, [f"2001010{number}" for number in range(1, 8)])
    ids = [
        study["ID"]
        for study in sorted(server.get("/studies?expand"), key=lambda study: str(study["MainDicomTags"]["StudyDate"]))
    ]
    patients = {study["ID"]: study["ParentPatient"] for study in server.get("/studies?expand")}
    seconds = time.time() + 1
    server.wait_until(lambda: time.time() > seconds, what="a second: LastUpdate knows no smaller time")
    number, go_on = start_held(server)
    kept = [ids[1], ids[2]]
    server.put(f"/patients/{patients[ids[1]]}/protected", "1")
    server.store(make_study(patient_id="P2", study_date="20010103", instances=3))
    if orthanc_version >= (1, 12, 0):
        server.put(f"/studies/{ids[4]}/labels/teaching")
        kept.append(ids[4])
    go_on()
    found = ended(server, number)
    assert (found["State"], found["Deleted"], found["Kept"]) == ("partly", 7 - len(kept), len(kept))
    assert sorted(server.get("/studies")) == sorted(kept)
    assert sorted(each["ID"] for each in found["NotDeleted"]) == sorted(kept)


def test_a_study_that_somebody_else_deleted_meanwhile_counts_as_gone(start_briefly: StartOrthanc) -> None:
    server = start_briefly(changed(WINDOW=1, STALE=0))
    fill(server, ["20010101", "20010102", "20010103"])
    number, go_on = start_held(server)
    # Deletions wait, Orthanc's own routes don't.
    server.delete(f"/studies/{orthanc_identifier('P1', str(uid(0, 'P1')))}")
    go_on()
    found = ended(server, number)
    assert (found["State"], found["Deleted"], found["Gone"]) == ("done", 2, 1)
    assert server.get("/studies") == []


def test_one_purge_at_a_time_and_it_can_be_looked_at_and_cancelled(start_briefly: StartOrthanc) -> None:
    server = start_briefly(changed(BATCH=10, WINDOW=5))
    fill(server, ["20010101"] * 20)
    number, go_on = start_held(server)
    refused = server.request("GET", "/purge-old-studies", params={"since": "20200101"})
    assert (refused.status_code, f"purge {number} is going on" in refused.json()["Message"]) == (409, True)
    assert server.get("/purge-old-studies", **{"since": "20200101", "dry-run": "true"}).startswith("DryRun: True")
    found = job(server, number)
    assert (found["State"], found["Progress"], found["Remaining"], found["Studies"]) == ("running", 0, 20, 20)
    assert server.get("/purge-old-studies/status")["Purge"] == number
    assert server.post(f"/purge-old-studies/jobs/{number}/cancel")["State"] == "cancelled"
    go_on()
    found = ended(server, number)
    assert (found["State"], found["Deleted"], found["Remaining"]) == ("cancelled", 5, 15)
    assert server.request("POST", f"/purge-old-studies/jobs/{number}/cancel").status_code == 409
    assert len(server.get("/studies")) == 15
    server.kill()
    server.start()
    assert job(server, number)["State"] == "cancelled"
    assert server.get("/purge-old-studies", since="20200101") == 15


def test_an_unknown_purge_is_a_404(unharmed: OrthancServer) -> None:
    for name in ("999", "x", "-1", "1e3", "\uff19", "99999999999999999999999"):
        assert unharmed.request("GET", f"/purge-old-studies/jobs/{name}").status_code == 404
        assert unharmed.request("POST", f"/purge-old-studies/jobs/{name}/cancel").status_code == 404


@pytest.mark.parametrize("continues", [True, False], ids=["async", "sync"])
def test_killed_half_way_an_asynchronous_purge_goes_on_and_the_history_is_complete(
    start_briefly: StartOrthanc, continues: bool
) -> None:
    server = start_briefly(SCRIPT)
    fill(server, ["20010101"] * 300)
    before = set(server.get("/studies"))
    if continues:
        server.post("/purge-old-studies", {"since": "20200101", "dry-run": False, "async": True})
    else:
        caller = threading.Thread(
            target=lambda: _ignore_errors(lambda: server.get("/purge-old-studies", since="20200101"))
        )
        caller.start()
    server.wait_until(lambda: len(server.get("/studies")) < 250, what="delete some")
    server.kill()
    server.start()
    found = ended(server, 1)
    left = set(server.get("/studies"))
    if continues:
        assert (found["State"], found["Deleted"], left) == ("done", 300, set())
    else:
        caller.join()
        assert found["State"] == "interrupted"
        assert 0 < len(left) < 250
    assert deleted_in_history(server) == sorted(before - left)
    assert found["Deleted"] == 300 - len(left)


def _ignore_errors(call: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        call()


def test_killed_while_a_batch_is_deleted_nothing_is_missing_from_the_history_and_nothing_stands_there_twice(
    start_briefly: StartOrthanc,
) -> None:
    server = start_briefly(changed())
    fill(server, ["20010101"] * 10)
    before = server.get("/studies")
    number, go_on = start_held(server)  # marked as being deleted, and not deleted yet
    server.kill()
    # As if the batch had been deleted before the kill: three with a line in the history, one with half a line, the rest without.
    go_on()
    (server.folder / "hold").touch()
    with (server.folder / "storage" / "purge_old_studies.jsonl").open("a") as history:
        for study in before[:3]:
            history.write(
                json.dumps({"Time": "2024-01-01T00:00:00Z", "Purge": number, "Event": "deleted", "ID": study}) + "\n"
            )
        history.write('{"Time": "2024-01-01T00:00:00Z", "Purge": 1, "Ev')
    other = start_briefly(
        None, {"StorageDirectory": str(server.folder / "storage"), "IndexDirectory": str(server.folder / "storage")}
    )
    for study in before[:8]:
        other.delete(f"/studies/{study}")
    other.kill()
    (server.folder / "hold").unlink()
    server.start()
    found = ended(server, number)
    assert found["Deleted"] == 10, found
    assert deleted_in_history(server) == sorted(before)


def test_stopped_half_way_it_ends_well_and_goes_on_at_the_next_start(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(changed(WINDOW=5))
    fill(server, ["20010101"] * 40)
    number, go_on = start_held(server)
    server.wait_until_stable()
    server.terminate()
    go_on()
    assert server.finish() == 0
    server.start()
    assert ended(server, number)["Deleted"] == 40
    assert len(deleted_in_history(server)) == 40


SIZES = """
def _slowly(delete):
    def slowly(self, studies):
        with (Path(orthanc.GetConfigurationPath()).parent / "sizes").open("a") as sizes:
            sizes.write(f"{len(studies)} ")
        time.sleep(0.02 * len(studies))
        return delete(self, studies)

    return slowly


Archive.delete = _slowly(Archive.delete)
"""


@pytest.mark.parametrize(
    ("constants", "sizes"),
    [
        ({"BATCH": 16, "BATCH_SECONDS": 0.04}, [8, 4, 2, 1]),
        ({"BATCH": 2, "BATCH_SECONDS": 60}, [1, 2, 4, 8]),
        ({"BATCH": 2, "BATCH_SECONDS": 60, "PIECE": 8}, [1, 2, 4, 4]),
    ],
    ids=["slow", "quick", "no more than a piece"],
)
def test_a_request_deletes_as_much_as_it_can_in_its_time_so_that_others_wait_no_longer(
    start_briefly: StartOrthanc, constants: dict[str, float], sizes: list[int]
) -> None:
    server = start_briefly(changed(**constants) + SIZES)
    fill(server, ["20010101"] * 33)
    assert server.get("/purge-old-studies", since="20200101", format="json")["Deleted"] == 33
    found = [int(size) for size in (server.folder / "sizes").read_text().split()]
    assert (found[:4], sum(found)) == (sizes, 33)
    if constants["BATCH"] > 2:
        assert set(found[4:]) == {1}


QUESTIONS = """
def _told(exchange):
    def told(self, method, path, body=None, headers=None):
        if path == "/tools/find":
            with (Path(orthanc.GetConfigurationPath()).parent / "questions").open("a") as questions:
                print(json.dumps(body), file=questions)
        return exchange(self, method, path, body, headers)

    return told


Loopback.request_raw = _told(Loopback.request_raw)
"""


def test_what_reads_through_the_archive_once_more_is_asked_when_studies_are_chosen_and_not_at_each_look(
    start_briefly: StartOrthanc,
) -> None:
    server = start_briefly(changed(WINDOW=4, PAGE=10) + QUESTIONS)
    fill(server, ["20010101"] * 22)
    assert server.get("/purge-old-studies", since="20200101", format="json")["Deleted"] == 22
    if not server.get("/system").get("Capabilities", {}).get("HasExtendedFind"):
        return  # these count as they look, study by study, whatever the archive has
    questions = [json.loads(line) for line in (server.folder / "questions").read_text().splitlines()]
    pages = [question["Since"] for question in questions if question.get("RequestedTags")]
    looks = [question for question in questions if "StudyInstanceUID" in question["Query"]]
    assert pages == [0, 10, 20]
    assert looks
    assert not any("RequestedTags" in look for look in looks)


def test_a_study_that_was_never_counted_goes_alone(script: ModuleType) -> None:
    # Written down by an older version of the script (no Instances), or by an Orthanc that counts later (0), before an upgrade.
    def together(*facts: dict[str, int]) -> int:
        instances = (script._instances({"facts": each}, None) for each in facts)
        return int(script.batch_length(instances, script.PIECE))

    assert together({"Instances": 3}, {"Instances": 4}, {"Instances": 5}) == 3
    for unknown in ({}, {"Instances": 0}):
        assert together(unknown, {"Instances": 4}) == 1
        assert together({"Instances": 4}, unknown) == 1


def test_a_large_study_goes_in_pieces_and_is_not_left_half(start_briefly: StartOrthanc) -> None:
    server = start_briefly(changed(PIECE=5))
    server.store(make_study(patient_id="LARGE", instances=12, series=2, study_date="20010101"))
    fill(server, ["20010102"])
    number, go_on = start_held(server)
    server.kill()
    go_on()
    server.start()
    found = ended(server, number)
    assert (found["State"], found["Deleted"], server.get("/instances")) == ("done", 2, [])


def test_killed_while_a_large_study_goes_in_pieces_an_interrupted_purge_finishes_that_and_takes_no_other(
    start_briefly: StartOrthanc,
) -> None:
    server = start_briefly(changed(PIECE=5))
    server.store(make_study(patient_id="LARGE", instances=12, study_date="20010101"))
    fill(server, ["20010102"])
    go_on = hold(server)
    caller = threading.Thread(target=lambda: _ignore_errors(lambda: server.get("/purge-old-studies", since="20200101")))
    caller.start()
    server.wait_until((server.folder / "held").exists, what="begin to delete")
    server.kill()
    caller.join()
    go_on()
    server.start()
    found = ended(server, 1)
    assert (found["State"], found["Deleted"], dates_left(server)) == ("interrupted", 1, ["20010102"])


# Record and rules


def test_the_history_tells_who_asked_when_and_what_went(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT, {"AuthenticationEnabled": True, "RegisteredUsers": {"anna": "secret"}})
    server.store(make_study(study_date="20010101", AccessionNumber="A1", patient_id="P1"))
    study = server.get("/studies?expand")[0]
    headers = {"X-Forwarded-For": "10.0.0.9, 10.0.0.1"}
    assert server.request("GET", "/purge-old-studies", params={"since": "20200101"}, headers=headers).text == "1\n"
    started, deleted, end = server.get("/purge-old-studies/history")["Items"]
    who = {"User": "anna", "ForwardedFor": "10.0.0.9, 10.0.0.1", "Rule": None}
    assert all({name: line[name] for name in who} == who for line in (started, deleted, end))
    assert deleted == deleted | {
        "Event": "deleted", "ID": study["ID"], "PatientID": "P1", "AccessionNumber": "A1", "StudyDate": "20010101",
        "StudyInstanceUID": study["MainDicomTags"]["StudyInstanceUID"], "Purge": 1,
    }  # fmt: skip
    assert (started["Event"], started["Conditions"]["last"], end["State"]) == ("started", "20200101", "done")
    metrics = server.request("GET", "/tools/metrics-prometheus").text
    assert "purge_old_studies_deleted 1 " in metrics
    assert "purge_old_studies_remaining 0 " in metrics
    file = server.folder / "storage" / "purge_old_studies.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "secret" not in file.read_text() + server.log
    page = server.get("/purge-old-studies/history", since=1, limit=1)
    assert (page["Total"], page["Next"], [line["Event"] for line in page["Items"]]) == (3, 2, ["deleted"])


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "since=x", "since=-1", "purge=", "day=1"])
def test_a_list_is_asked_for_properly_or_it_is_a_400(unharmed: OrthancServer, query: str) -> None:
    assert unharmed.request("GET", f"/purge-old-studies/history?{query}").status_code == 400


def test_a_purge_that_can_not_be_recorded_deletes_nothing(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT, start=False)
    (server.folder / "storage").mkdir()
    (server.folder / "storage" / "purge_old_studies.jsonl").symlink_to("/dev/full")
    server.start()
    fill(server, ["20010101"])
    answer = server.request("GET", "/purge-old-studies", params={"since": "20200101"})
    assert answer.status_code in (500, 503)
    assert len(server.get("/studies")) == 1


def test_a_rule_runs_at_its_time_once_although_orthanc_restarts(start_orthanc: StartOrthanc) -> None:
    now = datetime.datetime.now()  # noqa: DTZ005
    at = now + datetime.timedelta(seconds=4)
    section = {"KeepReceivedDays": 0,
               "Rules": [{"Name": "old", "OlderThan": "7y", "At": f"{at:%H:%M:%S}", "Query": {"ModalitiesInStudy": "CT"}},

            {"Name": "never", "OlderThan": "1d", "At": f"{now - datetime.timedelta(seconds=5):%H:%M:%S}"}]}  # fmt: skip
    server = start_orthanc(SCRIPT, {"PurgeOldStudies": section})
    server.store(make_study(patient_id="OLD", study_date="20010101"))
    server.store(make_study(patient_id="MR", study_date="20010101", modality="MR"))
    server.wait_until(lambda: len(server.get("/studies")) == 1, what="run the rule")
    found = ended(server, 1)
    assert (found["Rule"], found["Deleted"], found["State"]) == ("old", 1, "done")
    server.store(make_study(patient_id="OLD", study_date="20010101"))
    server.kill()
    server.start()
    server.wait_until(lambda: server.get("/purge-old-studies/status")["State"] == "running", what="start")
    assert server.get("/purge-old-studies/jobs")["Total"] == 1
    assert len(server.get("/studies")) == 2


@given(
    start=st.datetimes(datetime.datetime(2024, 1, 1), datetime.datetime(2026, 1, 1)),  # noqa: DTZ001
    steps=st.lists(st.floats(0.05, 20_000), min_size=1, max_size=60),
    at=st.times(),
    days=st.sets(st.integers(0, 6), min_size=1),
)
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_often_the_clock_is_looked_at_a_rule_is_due_once_on_each_of_its_days(
    script: ModuleType, start: datetime.datetime, steps: list[float], at: datetime.time, days: set[int]
) -> None:
    at = at.replace(microsecond=0)
    rule = script.Rule("r", "7y", at.isoformat(), tuple(script.DAYS[day] for day in sorted(days)))
    now, due = start, 0
    for step in steps:
        before, now = now, now + datetime.timedelta(seconds=step)
        due += script.is_due(rule, before, now)
    passed = [
        moment
        for number in range((now.date() - start.date()).days + 1)
        if start < (moment := datetime.datetime.combine(start.date() + datetime.timedelta(number), at)) <= now
        and moment.weekday() in days
    ]
    assert due == len(passed)
    assert 0 < script.seconds_until([rule], start) <= 8 * 86400


# Exactly the right ones

EXAMPLES = int(os.environ.get("PURGE_EXAMPLES", "400"))
STUDIES = st.lists(
    st.tuples(
        st.sampled_from(["19981231", "19991231", "20000101", "20000102", "20240101", *DATES[5:], None]),
        st.sampled_from(["CT", "MR"]),
        st.sampled_from(["a", "A", "b", "B C", "x*", "é"]),
        st.sampled_from(["", "", "", "protected", "metadata", "label"]),
    ),
    max_size=5,
)
ASKED = st.fixed_dictionaries(
    {"since": st.sampled_from(["19981231", "20000101", "20230101"]), "dry-run": st.sampled_from([False, False, True, None])},
    optional={
        "limit": st.integers(1, 3),
        "undated": st.sampled_from([True, False, "received"]),
        "by": st.sampled_from(["StudyDate", "received"]),
        "force": st.booleans(),
        "Query": st.sampled_from([{"PatientID": "A"}, {"PatientID": "?"}, {"PatientID": "A\\b"}, {"PatientID": "é"},
                                  {"ModalitiesInStudy": "MR"},
                                  {"PatientID": "x?", "ModalitiesInStudy": "CT"}]),
    },
)  # fmt: skip


@pytest.mark.parametrize("part", [0, 1, 2])
def test_exactly_the_right_studies_go_whatever_the_archive_and_the_request(
    start_orthanc_for_module: StartOrthanc, orthanc_version: tuple[int, ...], part: int
) -> None:
    server = start_orthanc_for_module(
        changed(PAGE=2, WINDOW=2, BATCH=1) if part else SCRIPT,
        {"UserMetadata": {"Keep": 5000}, "StableAge": 600, **(LIMITS if part == 2 else {}),
         "PurgeOldStudies": {"KeepLabels": ["keep"], "KeepMetadata": ["Keep"], "MaxStudies": 3, "MaxPercent": 80}},
    )  # fmt: skip

    @given(archive=STUDIES, asked=ASKED)
    @example(
        archive=[("19981231", "CT", "é", "")],  # Orthanc's index has no such letter, and a wildcard misses it there
        asked={"since": "19981231", "dry-run": False, "Query": {"PatientID": "?"}, "force": True},
    )
    @settings(max_examples=EXAMPLES // 3, deadline=None, database=None)
    @seed(part)
    def check(archive: list[tuple[str | None, str, str, str]], asked: dict[str, Any]) -> None:
        for study in server.get("/studies"):
            server.delete(f"/studies/{study}")
        studies = store_archive(server, archive, labels=orthanc_version >= (1, 12, 0))
        for study in server.get("/studies?expand"):
            studies[study["ID"]]["received"] = study["LastUpdate"]
        expected, status = model(studies, asked)
        given = {name: value for name, value in asked.items() if value is not None}
        answer = server.request("POST", "/purge-old-studies", json={**given, "format": "json"})
        left = set(server.get("/studies"))
        assert (answer.status_code, left) == (status, set(studies) - set(expected)), answer.text

    check()


def remove_study_date(dataset: Dataset) -> None:
    del dataset.StudyDate


def store_archive(
    server: OrthancServer, archive: list[tuple[str | None, str, str, str]], *, labels: bool
) -> dict[str, dict[str, Any]]:
    studies = {}
    for number, (date, modality, patient, kept) in enumerate(archive):
        without = remove_study_date if date is None else None
        content = make_study(patient_id=patient, study_date=date or "", modality=modality, seed=number, change=without)
        stored = server.store(content)[0]
        study = {
            "date": date,
            "modality": modality,
            "patient": patient,
            "kept": bool(kept) and (kept != "label" or labels),
        }
        studies[stored["ParentStudy"]] = study
        if kept == "protected":
            server.put(f"/patients/{stored['ParentPatient']}/protected", "1")
            study["protects"] = True
        elif kept == "metadata":
            server.put(f"/studies/{stored['ParentStudy']}/metadata/Keep", "1")
        elif kept == "label" and labels:
            server.put(f"/studies/{stored['ParentStudy']}/labels/keep")
    protected = {study["patient"] for study in studies.values() if study.get("protects")}
    for study in studies.values():
        study["kept"] = study["kept"] or study["patient"] in protected
    return studies


def model(studies: dict[str, dict[str, Any]], asked: dict[str, Any]) -> tuple[list[str], int]:
    """What goes, and the status, in the plainest words; everything was received today, and `since` is before."""
    queries: dict[str | None, Callable[[dict[str, Any]], bool]] = {
        None: lambda study: True,
        '{"PatientID": "A"}': lambda study: study["patient"] == "A",
        '{"PatientID": "?"}': lambda study: len(study["patient"]) == 1,
        '{"PatientID": "A\\\\b"}': lambda study: study["patient"] in ("A", "b"),
        '{"ModalitiesInStudy": "MR"}': lambda study: study["modality"] == "MR",
        '{"PatientID": "\\u00e9"}': lambda study: study["patient"] == "é",
        '{"PatientID": "x?", "ModalitiesInStudy": "CT"}': lambda study: (
            study["patient"] == "x*" and study["modality"] == "CT"
        ),
    }
    query = queries[json.dumps(asked["Query"]) if "Query" in asked else None]
    by_date = asked.get("by", "StudyDate") == "StudyDate"
    real = {"19981231", "19991231", "20000101", "20000102", "20240101"}

    def goes(study: dict[str, Any]) -> bool:
        if not by_date or study["kept"] or not query(study):
            return False
        return study["date"] <= asked["since"] if study["date"] in real else asked.get("undated") is True

    going = [name for name, study in studies.items() if goes(study)]
    day = {name: studies[name]["date"] if studies[name]["date"] in real else "9" for name in going}
    going.sort(key=lambda name: (day[name], studies[name]["received"], name))
    going = going[: asked.get("limit")]
    if asked.get("dry-run") is not False:
        return [], 200
    too_many = len(going) > 3 or len(going) * 100 > 80 * len(studies)
    return ([], 403) if too_many and not asked.get("force") else (going, 200)


def test_combined_with_others_it_does_the_same(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    combined = tmp_path / "combined.py"
    others = [SCRIPT.with_name("auto_forward_modality.py")]
    subprocess.run([sys.executable, SCRIPT.with_name("combine.py"), SCRIPT, *others, "-o", combined], check=True)
    server = start_orthanc(combined)
    fill(server, DATES)
    assert server.get("/purge-old-studies", since="20000101") == 3
    assert server.post("/purge-old-studies", {"since": "20200101", "dry-run": False, "async": True})["ID"] == 2
    assert ended(server, 2)["Deleted"] == 1
    server.kill()
    server.start()
    assert len(deleted_in_history(server)) == 4
