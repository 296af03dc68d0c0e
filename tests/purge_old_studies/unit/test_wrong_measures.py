# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies without a server: a measure that can't be right, or that deleting does not change, deletes nothing."""

from __future__ import annotations

import os
import types
from typing import Any

import pytest

from tests.fakes import eventually
from tests.purge_old_studies.unit.test_guards import purging  # noqa: F401 - a fixture
from tests.purge_old_studies.unit.test_space import RULE, Filling, filling  # noqa: F401 - a fixture

MILLION = 10**6  # blocks of a thousand bytes: a gigabyte
PERCENT = {**RULE, "WhenDiskAbove": "80%", "DownTo": "60%"}


class FileSystem:
    """A file system of 24 GB, of which the archive's studies have a gigabyte each."""

    def __init__(self, filling: Filling, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811 - the type
        self.filling, self.gigabytes, self.identity = filling, 24.0, 1
        self.used: float | None = None  # None: as the archive
        self.others = 0.0  # gigabytes that are not the archive's
        monkeypatch.setattr(os, "statvfs", self.statvfs)

    def statvfs(self, _folder: object) -> types.SimpleNamespace:
        used = len(self.filling.purging.found) if self.used is None else self.used
        free = int((self.gigabytes - used - self.others) * MILLION)
        return types.SimpleNamespace(
            f_frsize=1000,
            f_blocks=int(self.gigabytes * MILLION),
            f_bfree=free,
            f_bavail=free,
            f_fsid=self.identity,
        )


@pytest.fixture
def disk(filling: Filling, monkeypatch: pytest.MonkeyPatch) -> FileSystem:  # noqa: F811 - the fixture
    return FileSystem(filling, monkeypatch)


def stays_stuck(filling: Filling, why: str) -> list[str]:  # noqa: F811 - the type
    """Wait until the rule says why it frees nothing, and for more looks; return what was deleted until then."""
    eventually(lambda: filling.logged(f"frees nothing: {why}") or filling.logged(why))
    before = filling.purging.deleted()
    filling.looked()
    filling.looked()
    assert filling.purging.deleted() == before
    assert filling.logged("frees nothing") == 1
    assert why in filling.rule()["Last"]["Reason"]
    return before


def test_a_full_file_system_that_can_not_hold_the_archive_frees_nothing(filling: Filling, disk: FileSystem) -> None:  # noqa: F811
    filling.add(*range(101, 121))
    disk.gigabytes, disk.used = 5, 4.9  # the root's, where the disk of 20 GB is not mounted
    filling.start(Rules=[PERCENT])
    why = "the file system holds 4.9 GB, and Orthanc's files have 20 GB: is it the right one?"
    assert stays_stuck(filling, why) == []


def test_a_file_system_that_compresses_is_the_right_one(filling: Filling, disk: FileSystem) -> None:  # noqa: F811
    filling.add(*range(101, 121))
    disk.gigabytes, disk.used = 6, 5.1
    filling.start(Rules=[{**PERCENT, "AtMost": 3}])
    eventually(filling.purging.deleted)


def test_another_file_system_than_before_frees_nothing(filling: Filling, disk: FileSystem) -> None:  # noqa: F811
    filling.add(*range(101, 111))
    filling.start(Rules=[PERCENT])
    filling.looked()
    disk.identity, disk.others = 2, 12  # its disk went, and that below is fuller
    assert stays_stuck(filling, "is on another file system than before") == []
    disk.identity = 1
    eventually(filling.purging.deleted)
    eventually(lambda: filling.logged("frees room again") == 1)


@pytest.mark.parametrize("arriving", [0, 3])
def test_what_frees_no_room_does_not_go_on_until_nothing_is_left(
    filling: Filling,  # noqa: F811
    disk: FileSystem,
    arriving: int,
) -> None:
    filling.add(*range(101, 121))
    disk.used = 20  # snapshots keep what is deleted
    deleting = filling.purging.rest.answers["POST", "/tools/bulk-delete"]

    def and_more_arrive(path: str, body: Any) -> Any:
        filling.add(*range(201, 201 + arriving))
        disk.used = 20 + arriving
        return deleting(path, body)

    filling.purging.rest.answers["POST", "/tools/bulk-delete"] = and_more_arrive
    filling.start(Rules=[{**PERCENT, "AtMost": 3}])
    assert stays_stuck(filling, "3 GB of studies went, and the file system has no more room by it") == [
        "a101",
        "a102",
        "a103",
    ]
    filling.purging.rest.answers["POST", "/tools/bulk-delete"] = deleting
    disk.used = None  # the snapshot went too
    eventually(lambda: len(filling.purging.found) <= 14)
    filling.looked()
    assert len(filling.purging.found) == 14  # of 24 GB, 60 % are 14.4
    disk.others = 7  # that was over: what came in since is not held against this
    eventually(lambda: len(filling.purging.found) == 7)


def test_a_file_system_that_others_fill_as_fast_as_studies_go_frees_nothing(
    filling: Filling,  # noqa: F811
    disk: FileSystem,
) -> None:
    filling.add(*range(101, 121))
    deleting = filling.purging.rest.answers["POST", "/tools/bulk-delete"]

    def and_others_write(path: str, body: Any) -> Any:
        disk.others += 0.8 * len(body["Resources"])
        return deleting(path, body)

    filling.purging.rest.answers["POST", "/tools/bulk-delete"] = and_others_write
    filling.start(Rules=[{**PERCENT, "AtMost": 2}])
    assert len(stays_stuck(filling, "has no more room by it")) == 2


def test_a_study_without_a_size_frees_nothing_and_stays(filling: Filling) -> None:  # noqa: F811
    filling.add(*range(101, 113))
    for gone in (101, 103):
        filling.purging.standin.answers["GET", f"/studies/a{gone}/statistics"] = {"DiskSize": "0"}
    filling.start()
    eventually(filling.purging.deleted)
    filling.looked()
    assert filling.purging.deleted() == ["a102", "a104", "a105", "a106"]


def test_the_sizes_are_asked_for_some_studies_at_a_time_and_those_of_others_do_not_count(filling: Filling) -> None:  # noqa: F811
    """From Orthanc 1.12.5, where each question costs in proportion to the archive."""
    questions = list[dict[str, Any]]()
    files = [{"CompressedSize": str(5 * 10**8)}, {"CompressedSize": 5 * 10**8}]

    def find(_path: str, body: Any) -> Any:
        uids = body["Query"].get("StudyInstanceUID", "").split("\\")
        ids = [uid.removeprefix("1.") for uid in uids if uid.removeprefix("1.") in filling.purging.found]
        if body["Level"] == "Study":
            return [filling.purging.found[each] for each in (ids or filling.purging.found)]
        questions.append(body)
        if body["Level"] == "Series":
            return [{"ID": f"s-{each}", "ParentStudy": each} for each in [*ids, "of another patient"]]
        of = [*ids, "of another patient", "that came in just now"]
        return [{"ID": f"i-{each}", "ParentSeries": f"s-{each}", "Attachments": files} for each in of]

    days = [*range(101, 132), *range(201, 214)]  # of January, and of February
    filling.add(*days)
    system = {"Version": "1.12.5", "Capabilities": {"HasExtendedFind": True}}
    filling.purging.rest.answers |= {("GET", "/system"): system, ("POST", "/tools/find"): find}
    filling.start(Rules=[{**RULE, "DownTo": "9.5GB"}])
    eventually(filling.purging.deleted)
    filling.looked()
    assert filling.purging.deleted() == [f"a{day}" for day in days[:35]]  # GB, of 44
    assert [question["Level"] for question in questions if question["Level"] != "Patient"] == ["Series", "Instance"] * 2
