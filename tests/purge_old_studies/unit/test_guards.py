# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies without a server: rules run once a day, and what does not fit any more stays."""

from __future__ import annotations

import datetime
import importlib
from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually

NAME = "/purge-old-studies"
LONG_AGO = "20000101T000000"


class Purging:
    """The script, and an archive whose studies have a date; the clock says two minutes before half past two at night."""

    def __init__(self, start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, standin: StandIn) -> None:
        self._start, self.rest, self.clock, self.standin = start, rest, clock, standin
        self.found: dict[str, dict[str, Any]] = {}
        self._looks = 0
        clock.now = datetime.datetime(2026, 3, 1, 2, 28, tzinfo=datetime.UTC).timestamp()
        rest.answers |= {
            ("GET", "/system"): {"Version": "1.10.1"},
            ("POST", "/tools/find"): lambda *_: [*self.found],
            ("POST", "/tools/bulk-content"): self._content,
            ("POST", "/tools/bulk-delete"): self._delete,
            ("GET", "/statistics"): {"CountStudies": 10},
        }

    def start(self, configuration: dict[str, Any] | None = None, **section: Any) -> None:
        self.script = self._start("purge_old_studies", {"PurgeOldStudies": section, **(configuration or {})})
        schedule: Any = importlib.import_module("purge_old_studies.schedule")
        is_due = schedule.is_due

        def counted(*arguments: Any) -> bool:
            self._looks += 1
            return bool(is_due(*arguments))

        schedule.is_due = counted

    def add(self, study: str, date: str = "19990101", received: str = LONG_AGO) -> None:
        tags = {"StudyDate": date, "StudyInstanceUID": f"1.{study}"}
        self.found[study] = {"ID": study, "ParentPatient": f"{study}-9a", "MainDicomTags": tags, "LastUpdate": received}
        self.standin.answers["GET", f"/patients/{study}-9a/protected"] = b"0"
        self.standin.answers["GET", f"/studies/{study}"] = self.found[study]

    def _content(self, _path: str, body: Any) -> Any:
        if body["Level"] == "Series":
            return [{"ParentStudy": each, "Instances": ["1"], "MainDicomTags": {}} for each in body["Resources"]]
        return [self.found[each] for each in body["Resources"] if each in self.found]

    def _delete(self, _path: str, body: Any) -> Any:
        for each in body["Resources"]:
            del self.found[each]
        return {}

    def deleted(self) -> list[str]:
        return [each for body in self.rest.asked("POST", "/tools/bulk-delete") for each in body["Resources"]]

    def purges(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.script.get(f"{NAME}/jobs")["Items"]
        return found

    def looked(self) -> None:
        """Wait until the schedule has looked at the clock once more, and has done what was due."""
        # The first may be about a time read before; when the third begins, what was due in the second has been done.
        before = self._looks
        eventually(lambda: self._looks >= before + 3)
        eventually(lambda: all(purge["Ended"] for purge in self.purges()))


@pytest.fixture
def purging(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Purging:
    return Purging(start, rest, clock, orthanc_standin)


RULE = {"Name": "old", "OlderThan": "7y", "At": "02:30"}


def test_a_rule_runs_when_its_time_passes(purging: Purging) -> None:
    purging.add("a1")
    purging.add("b2", date="20230101")
    purging.start(Rules=[RULE])
    purging.looked()
    assert purging.purges() == []
    purging.clock.advance(180)
    [purge] = eventually(purging.purges)
    assert purge["Rule"] == "old"
    purging.looked()
    assert purging.deleted() == ["a1"]


@pytest.mark.parametrize("back", [300, 3600])
def test_a_rule_runs_once_a_day_when_the_clock_is_set_back_or_the_hour_comes_twice(
    purging: Purging, back: float
) -> None:
    purging.add("a1")
    purging.start(Rules=[RULE])
    purging.looked()
    purging.clock.advance(180)
    eventually(purging.purges)
    purging.looked()
    purging.add("b2")
    purging.clock.jump(-back)
    purging.looked()
    purging.clock.advance(back)
    purging.looked()
    assert len(purging.purges()) == 1
    assert purging.deleted() == ["a1"]
    for _ in range(24):
        purging.clock.advance(3600)
        purging.looked()
    assert len(purging.purges()) == 2  # the next day
    assert purging.deleted() == ["a1", "b2"]


def test_a_rule_that_has_run_does_not_run_again_after_a_restart_on_the_same_day(purging: Purging) -> None:
    purging.start(Rules=[RULE])
    purging.looked()
    purging.clock.advance(180)
    eventually(purging.purges)
    purging.looked()
    purging.clock.jump(-300)
    purging.start(Rules=[RULE])
    purging.looked()
    purging.clock.advance(300)
    purging.looked()
    assert len(purging.purges()) == 1


def test_a_clock_that_went_ahead_starts_no_rule(purging: Purging) -> None:
    purging.add("a1")
    purging.start(Rules=[RULE])
    purging.looked()
    purging.clock.jump(3 * 365 * 86400)
    eventually(lambda: any(level == "error" for level, _ in purging.standin.logs))
    purging.looked()
    assert purging.purges() == []
    assert purging.deleted() == []


def test_a_clock_that_is_wrong_stays_doubted_when_the_time_of_a_rule_comes(purging: Purging) -> None:
    purging.add("a1")
    purging.start(Rules=[RULE])
    purging.looked()
    purging.clock.jump(3 * 365 * 86400)
    purging.looked()
    for _ in range(30):  # by that clock, a day and more: the rule falls due
        purging.clock.advance(3600)
        purging.looked()
    assert purging.purges() == []
    assert purging.deleted() == []
    purging.standin.assert_logged("rule old does not run: The clock says", "error")


def test_a_clock_that_went_hours_ahead_starts_no_rule_whose_time_it_jumped_over(purging: Purging) -> None:
    purging.add("a1")
    purging.start(Rules=[RULE])
    purging.looked()
    purging.clock.jump(7200)
    eventually(lambda: any("not run this time: old" in text for _, text in purging.standin.logs))
    purging.looked()
    assert purging.purges() == []


def test_a_time_that_passed_while_it_was_down_waits_for_the_next_day(purging: Purging) -> None:
    purging.add("a1")
    purging.clock.advance(3600)
    purging.start(Rules=[RULE])
    purging.looked()
    assert purging.purges() == []


def test_more_than_max_studies_at_once_are_refused(purging: Purging) -> None:
    for number in range(3):
        purging.add(f"a{number}")
    purging.start(Rules=[RULE], MaxStudies=2)
    purging.looked()
    purging.clock.advance(180)
    eventually(lambda: any("more than MaxStudies (2)" in text for _, text in purging.standin.logs))
    assert purging.deleted() == []


# By request


def purge(purging: Purging, **more: Any) -> Any:
    return purging.script.post(NAME, {"since": "20000101", "dry-run": False, "format": "json", **more})


def test_what_orthanc_finds_is_judged_once_more(purging: Purging) -> None:
    """To Orthanc an empty date, `1999` and `19991301` are before 20000101."""
    for study, date in {
        "a1": "20000101",
        "b2": "20000102",
        "c3": "",
        "d4": "1999",
        "e5": "19991301",
        "f6": "1999.12.31",
    }.items():
        purging.add(study, date=date)
    purging.start()
    assert purge(purging).json()["Deleted"] == 1
    assert purging.deleted() == ["a1"]


def test_a_protected_patient_keeps_its_study(purging: Purging) -> None:
    purging.add("a1")
    purging.add("b2")
    purging.standin.answers["GET", "/patients/a1-9a/protected"] = b"1"
    purging.start()
    assert purge(purging).json()["Deleted"] == 1
    assert purging.deleted() == ["b2"]


def test_who_can_not_see_whether_a_patient_is_protected_deletes_nothing(purging: Purging) -> None:
    purging.add("a1")
    purging.standin.answers["GET", "/patients/a1-9a/protected"] = purging.standin.module.OrthancException(
        15, "database"
    )
    purging.start()
    assert purge(purging).status == 500
    assert purging.deleted() == []


def change_between(purging: Purging, study: str, **change: Any) -> None:
    """After the studies were chosen, and before they go."""
    looks = {"count": 0}

    def content(path: str, body: Any) -> Any:
        if body["Level"] == "Study":
            looks["count"] += 1
            if looks["count"] == 2:
                purging.found[study] = {**purging.found[study], **change}
        return purging._content(path, body)

    purging.rest.answers["POST", "/tools/bulk-content"] = content


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"LastUpdate": "20260301T022800"}, "it has received something since it was chosen"),
        (
            {"MainDicomTags": {"StudyDate": "20200101", "StudyInstanceUID": "1.a1"}},
            "it does not fit the conditions any more",
        ),
    ],
)
def test_what_changes_between_choice_and_deletion_is_kept(purging: Purging, change: dict[str, Any], why: str) -> None:
    purging.add("a1")
    change_between(purging, "a1", **change)
    purging.start()
    answer = purge(purging)
    assert (answer.status, answer.json()["Kept"]) == (500, ["a1"])
    assert purging.deleted() == []
    [job] = purging.purges()
    [left] = purging.script.get(f"{NAME}/jobs/{job['ID']}")["NotDeleted"]
    assert left["Reason"] == why


def test_what_is_put_under_protection_between_choice_and_deletion_is_kept(purging: Purging) -> None:
    purging.add("a1")
    answers = [b"0", b"1"]
    purging.standin.answers["GET", "/patients/a1-9a/protected"] = lambda _: answers.pop(0)
    purging.start()
    assert purge(purging).json()["Kept"] == ["a1"]
    assert purging.deleted() == []


def test_each_study_is_in_the_history_with_who_asked_before_it_counts_as_gone(purging: Purging) -> None:
    purging.add("a1")
    purging.start()
    purge(purging)
    events = [(line["Event"], line.get("ID")) for line in purging.script.get(f"{NAME}/history")["Items"]]
    assert events == [("started", None), ("deleted", "a1"), ("ended", None)]


def test_a_dry_run_deletes_nothing(purging: Purging) -> None:
    purging.add("a1")
    purging.standin.answers["GET", "/studies/a1/statistics"] = {"DiskSize": "10"}
    purging.start()
    answer = purge(purging, **{"dry-run": True})
    assert (answer.status, answer.json()["Studies"]) == (200, 1)
    assert purging.deleted() == []


def test_a_dry_run_says_what_a_guard_would_refuse(purging: Purging) -> None:
    for name in ("a1", "a2"):
        purging.add(name)
        purging.standin.answers["GET", f"/studies/{name}/statistics"] = {"DiskSize": "10"}
    purging.start(MaxStudies=1)
    answer = purge(purging, **{"dry-run": True}).json()
    assert answer["Refused"] == "2 studies would go, more than MaxStudies (1); force=true does it nevertheless"
    assert "Refused" not in purge(purging, **{"dry-run": True, "force": True}).json()
    assert "Refused" not in purge(purging, **{"dry-run": True, "limit": 1}).json()


def test_a_link_in_a_page_deletes_nothing(purging: Purging) -> None:
    purging.add("a1")
    purging.start()
    for headers in ({"sec-fetch-site": "cross-site"}, {}, {"sec-fetch-site": "none", "sec-purpose": "prefetch"}):
        headers = {"user-agent": "Mozilla/5.0", "host": "localhost:8042", **headers}
        answer = purging.standin.http("GET", f"{NAME}?since=20000101", headers=headers)
        assert answer.status == 403
        assert "curl -u USER 'http://localhost:8042/purge-old-studies?since=20000101'" in answer.json()["Message"]
    assert purging.deleted() == []


@pytest.mark.parametrize(
    ("arrived", "until", "meant"),
    [
        ("20260201T000000", "20260222T000000", True),
        ("20260222T000000", "20260222T000000", True),
        ("20260222T000001", "20260222T000000", False),
        ("", "20260222T000000", False),  # nobody knows when it came in
        ("20260222T000001", "", True),
    ],
)
def test_what_came_in_lately_is_not_meant_whatever_its_date(
    source: Callable[[str], Any], arrived: str, until: str, meant: bool
) -> None:
    studies, conditions = source("purge_old_studies.studies"), source("purge_old_studies.conditions")
    tags = {"StudyDate": "19700101"}
    study = studies.Study("a1", "p1", tags, arrived, arrived, frozenset(), frozenset())
    asked = conditions.Conditions(datetime.date(2000, 1, 1), received_until=until)
    assert studies.is_meant(study, asked) is meant
