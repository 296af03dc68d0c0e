# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies without a server: rules by space free what is needed, and no more, and say so where they can't."""

from __future__ import annotations

import json
import os
import types
from typing import Any

import pytest

from tests.fakes import eventually
from tests.purge_old_studies.unit.test_guards import NAME, Purging, purging  # noqa: F401 - a fixture

GB = 10**9
RULE = {
    "Name": "keep room", "WhenDiskAbove": "10GB", "DownTo": "8GB", "OlderThan": "1y", "OldestBy": "StudyDate",
}  # fmt: skip


class Filling:
    """An archive in which each study has a gigabyte, and more comes in between two looks."""

    def __init__(self, purging: Purging) -> None:  # noqa: F811 - the type, not the fixture
        self.purging = purging
        purging.rest.answers["GET", "/statistics"] = lambda *_: {
            "CountStudies": len(purging.found),
            "TotalDiskSize": f"{len(purging.found) * GB}",
        }

    def add(self, *numbers: int) -> None:
        for number in numbers:
            self.purging.add(f"a{number}", date=f"2001{number:04d}")
            self.purging.standin.answers["GET", f"/studies/a{number}/statistics"] = {"DiskSize": str(GB)}

    def start(self, **section: Any) -> None:
        self.purging.start(**{"Rules": [RULE], **section})

    def rule(self) -> dict[str, Any]:
        [rule] = self.purging.script.get(f"{NAME}/status")["Rules"]
        return dict(rule)

    def looked(self) -> None:
        """Wait for two looks that find nothing to do, or nothing that may go."""
        looks = self.looks()
        eventually(lambda: self.looks() >= looks + 2)
        eventually(lambda: all(purge["Ended"] for purge in self.purging.purges()))

    def looks(self) -> int:
        return sum(path == "/statistics" for _, path, _ in self.purging.rest.requests)

    def logged(self, text: str) -> int:
        return sum(text in line for _, line in self.purging.standin.logs)


@pytest.fixture
def filling(purging: Purging) -> Filling:  # noqa: F811
    return Filling(purging)


def test_nothing_goes_until_the_level_is_passed_and_then_the_oldest_until_there_is_room(filling: Filling) -> None:
    filling.add(*range(110, 100, -1))  # the youngest first
    filling.start()
    filling.looked()
    assert filling.purging.deleted() == []
    assert filling.rule()["Disk"] == {
        "Used": "10 GB", "Above": "10 GB", "DownTo": "8 GB", "BytesToGo": 0,
        "Why": "the archive holds 10 GB, not above 10 GB",
    }  # fmt: skip
    filling.add(112, 111)
    eventually(filling.purging.deleted)
    filling.looked()
    assert filling.purging.deleted() == ["a101", "a102", "a103", "a104"]
    assert filling.rule()["Last"]["Deleted"] == 4
    [purge] = filling.purging.purges()
    assert purge["Rule"] == "keep room"
    assert purge["Because"] == "the archive holds 12 GB, above 10 GB: down to 8 GB"


def test_what_is_younger_or_kept_stays_however_full_it_is_and_that_is_said_once(filling: Filling) -> None:
    filling.add(*range(101, 113))
    for number in range(101, 113):
        filling.purging.standin.answers["GET", f"/patients/a{number}-9a/protected"] = b"1"
    filling.purging.add("young", date="20260101")
    filling.start(KeepReceivedDays=0)
    filling.looked()
    filling.looked()
    assert filling.purging.deleted() == []
    assert filling.logged("rule keep room frees nothing: the archive holds 13 GB, above 10 GB") == 1
    assert "nothing older than 1y may go" in filling.rule()["Last"]["Reason"]
    for number in range(101, 113):
        filling.purging.standin.answers["GET", f"/patients/a{number}-9a/protected"] = b"0"
    eventually(lambda: len(filling.purging.found) == 8)
    filling.looked()
    assert "young" in filling.purging.found
    assert filling.logged("rule keep room frees room again") == 1


def test_what_came_in_lately_stays(filling: Filling) -> None:
    filling.add(*range(101, 113))
    for number in (101, 102):
        filling.purging.found[f"a{number}"]["LastUpdate"] = "20260228T120000"
    filling.start()
    eventually(filling.purging.deleted)
    filling.looked()
    assert filling.purging.deleted() == ["a103", "a104", "a105", "a106"]


def test_at_most_so_many_go_in_one_look_and_it_goes_on_until_there_is_room(filling: Filling) -> None:
    filling.add(*range(101, 113))
    filling.start(Rules=[{**RULE, "AtMost": 3}])
    eventually(lambda: len(filling.purging.deleted()) == 4)
    filling.looked()
    assert [purge["Deleted"] for purge in filling.purging.purges()] == [3, 1]


@pytest.mark.parametrize("guard", [{"MaxStudies": 2}, {"MaxPercent": 17}])
def test_no_more_than_the_guards_allow_goes_within_an_hour(filling: Filling, guard: dict[str, int]) -> None:
    filling.add(*range(101, 115))
    filling.start(**guard)
    eventually(filling.purging.deleted)
    filling.looked()
    assert len(filling.purging.deleted()) == 2
    assert "within an hour" in filling.rule()["Last"]["Reason"]
    filling.start(**guard)  # a restart is no new hour
    filling.looked()
    assert len(filling.purging.deleted()) == 2
    filling.purging.clock.advance(3700)
    eventually(lambda: len(filling.purging.deleted()) > 2)


def test_a_doubted_clock_frees_nothing(filling: Filling) -> None:
    filling.add(101)
    filling.start()
    filling.looked()
    filling.purging.clock.jump(3 * 365 * 86400)
    filling.add(*range(102, 120))
    filling.looked()
    assert filling.purging.deleted() == []
    assert filling.logged("rule keep room frees nothing: The clock says") == 1


def test_a_dry_run_of_a_rule_shows_what_would_go_and_why(filling: Filling) -> None:
    filling.add(*range(110, 100, -1))  # the youngest first
    filling.start(Rules=[{**RULE, "Name": "keep/room now"}])
    path = f"{NAME}/rules/keep%2Froom%20now/dry-run"
    found = filling.purging.script.get(path)
    assert (found["Studies"], found["Why"]) == (0, "the archive holds 10 GB, not above 10 GB")
    assert filling.purging.standin.http("GET", f"{NAME}/rules/another/dry-run").status == 404


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"WhenDiskAbove": "85"}, "WhenDiskAbove"),
        ({"WhenDiskAbove": "85 %"}, "WhenDiskAbove"),
        ({"WhenDiskAbove": "100%"}, "WhenDiskAbove"),
        ({"WhenDiskAbove": "0GB"}, "WhenDiskAbove"),
        ({"WhenDiskAbove": "1,5TB"}, "WhenDiskAbove"),
        ({"WhenDiskAbove": "900gb"}, "WhenDiskAbove"),
        ({"DownTo": "10GB"}, "DownTo"),
        ({"DownTo": "11GB"}, "DownTo"),
        ({"DownTo": "80%"}, "DownTo"),
        ({"DownTo": None}, "DownTo"),
        ({"OldestBy": "LastAccess"}, "Orthanc does not know when somebody last looked at a study"),
        ({"At": "02:30"}, "At"),
        ({"By": "received"}, "OldestBy"),
        ({"Limit": 5}, "AtMost"),
        ({"OlderThan": ""}, "OlderThan"),
        ({"Undated": True}, "never takes what may be younger than OlderThan"),
        ({"OlderThan": "3d", "OldestBy": "received"}, "KeepReceivedDays (7 days)"),
        ({"WhenDiskAbove": None, "At": "02:30"}, "DownTo"),
    ],
)
def test_what_can_not_be_meant_is_an_error(filling: Filling, changes: dict[str, Any], wrong: str) -> None:
    filling.add(*range(101, 120))
    filling.start(Rules=[{**RULE, **changes}])
    [error] = [line for level, line in filling.purging.standin.logs if level == "error"]
    assert "PurgeOldStudies.Rules[0]" in error
    assert wrong in error
    assert filling.purging.deleted() == []


def test_a_percentage_is_of_the_file_system_as_df_counts(filling: Filling, monkeypatch: pytest.MonkeyPatch) -> None:
    filling.add(*range(101, 121))
    # 20 of 25 GB; 1 GB is root's: 20 of the 24 that others may use, 83.33 %
    monkeypatch.setattr(
        os, "statvfs", lambda _folder: types.SimpleNamespace(
            f_frsize=1000, f_blocks=25 * 10**6, f_bfree=(25 - len(filling.purging.found)) * 10**6,
            f_bavail=(24 - len(filling.purging.found)) * 10**6, f_fsid=1,
        ),
    )  # fmt: skip
    filling.start(Rules=[{**RULE, "WhenDiskAbove": "83.3%", "DownTo": "76%"}])
    eventually(filling.purging.deleted)
    eventually(lambda: filling.rule()["Disk"]["BytesToGo"] == 0)
    assert filling.purging.deleted() == ["a101", "a102"]  # 18 of 24 GB are 75 %, 19 are 79 %


def test_a_percentage_is_refused_where_a_plugin_keeps_the_files(filling: Filling) -> None:
    filling.add(*range(101, 121))
    system = {"Version": "1.10.1", "StorageAreaPlugin": "/usr/share/orthanc/plugins/libS3.so"}
    filling.purging.rest.answers["GET", "/system"] = system
    filling.start(Rules=[{**RULE, "WhenDiskAbove": "1%", "DownTo": "0.5%"}])
    eventually(lambda: filling.logged('Rules[0].WhenDiskAbove: found "1%": rule keep room never runs here') == 1)
    eventually(lambda: filling.logged("frees nothing") == 1)
    assert filling.purging.deleted() == []
    assert json.dumps(filling.rule()["Disk"]) == "null"


@pytest.mark.parametrize(("system", "errors"), [({"Version": "1.11.3"}, 2), ({"Version": "1.12.1", "HasLabels": False}, 2),
                                               ({"Version": "1.12.0"}, 0)])  # fmt: skip
def test_labels_that_this_orthanc_does_not_have_are_an_error_at_start(
    filling: Filling, system: dict[str, Any], errors: int
) -> None:
    filling.purging.rest.answers["GET", "/system"] = system
    filling.purging.start(
        KeepLabels=["teaching"], Rules=[{"Name": "r", "OlderThan": "7y", "At": "03:00", "Labels": ["x"]}]
    )
    filling.purging.looked()
    if errors:
        eventually(lambda: filling.logged("no labels, they came with 1.12.0") == errors)
        assert filling.logged("PurgeOldStudies.KeepLabels keeps nothing here") == 1
    assert filling.logged("no labels") == errors


def test_the_status_says_what_each_rule_deletes(filling: Filling) -> None:
    """By the keys of the configuration, those alone that mean something for the rule."""
    timed = {
        "Name": "old",
        "OlderThan": "7y",
        "At": "02:30",
        "Query": {"StudyDescription": "X"},
        "Labels": ["a"],
        "Limit": 3,
    }
    filling.start(Rules=[RULE, timed])
    space, old = (rule["Conditions"] for rule in filling.purging.script.get(f"{NAME}/status")["Rules"])
    assert space == {**{key: RULE[key] for key in RULE if key != "Name"}, "Undated": False, "AtMost": 500}
    week = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    more = {"Days": week, "By": "StudyDate", "LabelsConstraint": "All", "Undated": False}
    assert old == {**{key: timed[key] for key in timed if key != "Name"}, **more}
