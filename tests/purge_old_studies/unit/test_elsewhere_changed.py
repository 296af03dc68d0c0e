# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies without a server: what happens to a study while it is proved and deleted, a restart too."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import eventually
from tests.purge_old_studies.unit.elsewhere_helpers import AT_PACS, Elsewhere
from tests.purge_old_studies.unit.elsewhere_helpers import purging as purging  # a fixture
from tests.purge_old_studies.unit.test_guards import LONG_AGO, purge


def test_a_study_that_receives_something_while_it_is_proved_stays(purging: Elsewhere) -> None:
    def grow(*_: Any) -> None:
        purging.clock.advance(1)
        purging.found["a1"] = {**purging.found["a1"], "LastUpdate": "20260301T022800"}

    purging.has("PACS", purging.found)
    purging.before = grow
    purging.start()
    assert purge(purging, **AT_PACS).json()["Kept"] == ["a1"]
    assert purging.deleted() == ["b2-1", "b2-2", "c3-1", "c3-2"]
    assert purging.why() == {"a1": "it has received something since it was chosen"}


def test_an_image_that_comes_in_between_the_last_look_and_the_deletion_stays(purging: Elsewhere) -> None:
    def delete(path: str, body: Any) -> Any:
        purging.instances["a1"].append("a1-3")
        purging.rest.answers["POST", "/tools/bulk-delete"] = purging._delete
        return purging._delete(path, body)

    purging.has("PACS", purging.found)
    purging.rest.answers["POST", "/tools/bulk-delete"] = delete
    purging.start()
    assert purge(purging, **AT_PACS).json()["Kept"] == ["a1"]
    assert purging.instances == {"a1": ["a1-3"]}
    assert purging.why() == {"a1": "something came in while it was being deleted, and stays"}


def test_a_deletion_that_orthanc_refuses_is_one_that_failed(purging: Elsewhere) -> None:
    purging.has("PACS", purging.found)
    purging.rest.answers["POST", "/tools/bulk-delete"] = purging.rest.error(500, "the disk is read-only")
    purging.start()
    assert purge(purging, **AT_PACS).json()["Failed"] == ["a1", "b2", "c3"]
    assert set(purging.why().values()) == {"the disk is read-only"}


@pytest.mark.parametrize("what", ["no file", "no instance"])
def test_a_study_whose_instances_can_not_be_read_stays(purging: Elsewhere, what: str) -> None:
    """Without the names of files nobody could see that a destination shares our database."""

    def content(path: str, body: Any) -> Any:
        found = purging._content(path, body)
        for each in found:
            if each["ID"] == "a1-2":
                del each["FileUuid"]
            elif each["ID"] == "a1-5e" and what == "no instance":
                each["Instances"] = []
        return found

    purging.rest.answers["POST", "/tools/bulk-content"] = content
    purging.has("PACS", purging.found)
    purging.start()
    assert purge(purging, **AT_PACS).json()["Kept"] == ["a1"]
    assert purging.instances == {"a1": ["a1-1", "a1-2"]}
    assert purging.why() == {"a1": "its instances can't be read"}


def test_the_rest_of_a_study_that_was_being_deleted_is_proved_anew_after_a_restart(
    purging: Elsewhere, tmp_path: Path
) -> None:
    purging.has("PACS", purging.found)
    purging.start()
    purge(purging, since="19000101", **AT_PACS)  # so that there is a ledger
    with closing(sqlite3.connect(next(tmp_path.rglob("purge_old_studies.sqlite")))) as db, db:
        asked = {"last": "20000101", "by": "StudyDate", "query": {}, "labels": [], "labels_constraint": "All"}
        asked |= {"only_if_at": ["PACS"], "proof": "C-FIND"}
        values = (7, "running", 0, json.dumps({"User": None, "Rule": None}), json.dumps(asked), 1.0)
        db.execute("INSERT INTO purges VALUES(?,?,?,?,?,?,NULL)", values)
        for number, study in enumerate(("a1", "b2")):
            facts = json.dumps({"StudyInstanceUID": f"1.{study}", "LastUpdate": LONG_AGO, "Instances": 2})
            db.execute("INSERT INTO studies VALUES(7,?,?,?,'pieces','')", (number, study, facts))
    purging.there["PACS"] -= {"a1-2"}
    purging.start()
    eventually(lambda: purging.purges()[-1]["Ended"])
    assert purging.deleted() == ["b2-1", "b2-2"]
    assert purging.why(7) == {"a1": "PACS has not proved to have 1 of 2 instances"}
    assert set(purging.proofs) == {"C-FIND"}


def test_a_restart_knows_what_the_conditions_were(source: Any) -> None:
    conditions = source("purge_old_studies.conditions")
    for more in ({}, {"only-if-at": ["PACS", "peer:X"]}, {"only-if-at": ["PACS"], "proof": "C-FIND"}):
        asked = conditions.conditions({"since": "20000101", **more}, conditions.datetime.date(2026, 1, 1))
        assert conditions.Conditions.from_json(json.dumps(asked.as_json())) == asked
        assert asked.only_if_at == tuple(more.get("only-if-at", ()))
