# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py: the record of what went, and the rules that run at their time."""

from __future__ import annotations

import datetime
import stat
from types import ModuleType

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.purge_old_studies.helpers import SCRIPT, ended, fill


def test_the_history_tells_who_asked_when_and_what_went(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT, {"AuthenticationEnabled": True, "RegisteredUsers": {"anna": "secret"}})
    server.store(make_study(study_date="20010101", AccessionNumber="A1", patient_id="P1"))
    study = server.get("/studies?expand")[0]
    headers = {"X-Forwarded-For": "10.0.0.9, 10.0.0.1"}
    assert server.request("GET", "/purge-old-studies", params={"since": "20200101"}, headers=headers).text.startswith(
        "Purged 1 "
    )
    started, deleted, end = server.get("/purge-old-studies/history")["Items"]
    who = {"User": "anna", "ForwardedFor": "10.0.0.9, 10.0.0.1", "Rule": None}
    assert all({name: line[name] for name in who} == who for line in (started, deleted, end))
    assert deleted == deleted | {
        "Event": "deleted", "ID": study["ID"], "PatientID": "P1", "AccessionNumber": "A1", "StudyDate": "20010101",
        "StudyInstanceUID": study["MainDicomTags"]["StudyInstanceUID"], "Purge": 1,
    }  # fmt: skip
    assert (started["Event"], started["Conditions"]["last"], end["State"]) == ("started", "20200101", "done")

    def metrics() -> str:
        return server.request("GET", "/tools/metrics-prometheus").text

    server.wait_until(lambda: "purge_old_studies_deleted 1 " in metrics(), what="measure")
    assert "purge_old_studies_remaining 0 " in metrics()
    file = server.folder / "storage" / "purge_old_studies.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "secret" not in file.read_text() + server.log
    page = server.get("/purge-old-studies/history", since=1, limit=1)
    assert (page["Total"], page["Next"], [line["Event"] for line in page["Items"]]) == (3, 2, ["deleted"])


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
