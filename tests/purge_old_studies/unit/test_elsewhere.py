# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies without a server: by `OnlyIfAt`, what a destination does not prove to have stays."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes import eventually
from tests.purge_old_studies.unit.elsewhere_helpers import AT_PACS, Elsewhere
from tests.purge_old_studies.unit.elsewhere_helpers import purging as purging  # a fixture
from tests.purge_old_studies.unit.test_guards import NAME, RULE, purge


def test_only_what_each_destination_has_wholly_goes_and_by_its_instances(purging: Elsewhere) -> None:
    purging.has("PACS", ["a1", "b2"])
    purging.there["PACS"] |= {"c3-1"}
    purging.has("research", ["a1", "c3"])
    purging.start()
    answer = purge(purging, **{"only-if-at": ["PACS", "peer:research"]})
    assert (answer.status, answer.json()["Deleted"], answer.json()["Kept"]) == (500, 1, ["b2", "c3"])
    assert purging.deleted() == ["a1-1", "a1-2"]
    assert purging.why() == {
        "b2": "research has not proved to have 2 of 2 instances",
        "c3": "PACS has not proved to have 1 of 2 instances",
    }
    assert purging.questions == [("PACS", ["a1", "b2", "c3"]), ("PACS", ["a1", "b2", "c3"]), ("research", ["a1", "b2"])]
    assert purging.proofs[:2] == ["C-FIND", "StorageCommitmentOnly"]
    lines = purging.script.get(f"{NAME}/history")["Items"]
    assert {line["Reason"] for line in lines if line["Event"] == "kept"} == {*purging.why().values()}
    [job] = purging.purges()
    assert job["Conditions"]["only_if_at"] == ["PACS", "peer:research"]


@pytest.mark.parametrize("proof", ["C-FIND", "StorageCommitmentOnly"])
def test_the_proof_is_the_one_that_was_asked_for(purging: Elsewhere, proof: str) -> None:
    purging.has("PACS", ["a1", "b2", "c3"])
    purging.start()
    assert purge(purging, **AT_PACS, proof=proof).json() == {"Deleted": 3, "Since": "20000101"}
    assert purging.proofs == [proof]


def test_what_is_found_and_not_committed_to_stays_and_the_other_way_round(purging: Elsewhere) -> None:
    def change(*_: Any) -> None:
        a1 = {"a1-1"} if purging.proofs[-1] == "C-FIND" else {"a1-1", "a1-2"}
        b2 = {"b2-1", "b2-2"} if purging.proofs[-1] == "C-FIND" else {"b2-2"}
        purging.there["PACS"] = a1 | b2 | {"c3-1", "c3-2"}

    purging.before = change
    purging.start()
    assert purge(purging, **AT_PACS).json()["Deleted"] == 1
    assert purging.deleted() == ["c3-1", "c3-2"]


def test_a_node_is_asked_to_commit_itself_to_few_instances_at_a_time(purging: Elsewhere) -> None:
    purging.instances["a1"] = [f"a1-{number}" for number in range(250)]
    purging.has("PACS", purging.found)
    purging.start()
    assert purge(purging, **AT_PACS).json()["Deleted"] == 3
    assert purging.proofs[:4] == ["C-FIND"] + 3 * ["StorageCommitmentOnly"]
    assert len(purging.deleted()) == 254


def test_without_destinations_nobody_is_asked_and_studies_go_whole(purging: Elsewhere) -> None:
    purging.start()
    assert purge(purging).json()["Deleted"] == 3
    assert purging.questions == []
    assert purging.deleted() == ["a1", "b2", "c3"]
    assert "only_if_at" not in purging.purges()[0]["Conditions"]


def test_a_dry_run_says_where_it_must_be_and_asks_nobody(purging: Elsewhere) -> None:
    for study in purging.found:
        purging.standin.answers["GET", f"/studies/{study}/statistics"] = {"DiskSize": "10"}
    purging.start(Rules=[{**RULE, "OnlyIfAt": ["PACS", "research"]}])
    answer = purge(purging, **AT_PACS, **{"dry-run": True})
    assert (answer.json()["Studies"], answer.json()["OnlyIfAt"]) == (3, ["PACS"])
    assert "OnlyIfAt: PACS\n" in purge(purging, **AT_PACS, **{"dry-run": True, "format": "text"}).text
    assert purging.script.get(f"{NAME}/rules/old/dry-run")["OnlyIfAt"] == ["PACS", "research"]
    assert purging.questions == []


def test_a_rule_deletes_at_its_time_what_is_elsewhere(purging: Elsewhere) -> None:
    purging.has("PACS", ["a1", "c3"])
    purging.start(Rules=[{**RULE, "OnlyIfAt": ["PACS"], "Proof": "C-FIND"}])
    purging.looked()
    purging.clock.advance(180)
    eventually(purging.purges)
    purging.looked()
    assert purging.deleted() == ["a1-1", "a1-2", "c3-1", "c3-2"]
    assert purging.why() == {"b2": "PACS has not proved to have 2 of 2 instances"}
