# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies without a server: rules by space with `OnlyIfAt`."""

from __future__ import annotations

import types
from typing import Any

import pytest

from tests.fakes import eventually
from tests.purge_old_studies.unit.elsewhere_helpers import BY_SPACE, Elsewhere
from tests.purge_old_studies.unit.elsewhere_helpers import filling as filling  # a fixture
from tests.purge_old_studies.unit.elsewhere_helpers import purging as purging  # a fixture
from tests.purge_old_studies.unit.test_space import Filling


def test_a_rule_by_space_passes_over_what_is_nowhere_else_for_some_hours(filling: Filling, purging: Elsewhere) -> None:
    filling.start(Rules=[BY_SPACE])
    eventually(lambda: len(purging.found) == 8)
    filling.looked()
    assert {study for study in purging.instances if study <= "a103"} == {"a101", "a102", "a103"}
    asked = [study for _, studies in purging.questions for study in studies]
    assert asked.count("a101") <= 3  # once found, once in a batch of two, once alone
    number = len(purging.purges())
    filling.add(115, 116, 117, 118)
    filling.looked()
    assert len(purging.purges()) > number
    purging.has("PACS", ["a101"])
    purging.clock.advance(7 * 3600)
    filling.add(119, 120, 121)
    eventually(lambda: "a101" not in purging.found)


def test_a_rule_by_space_that_finds_nothing_elsewhere_says_so(filling: Filling, purging: Elsewhere) -> None:
    purging.there["PACS"].clear()
    filling.start(Rules=[BY_SPACE])
    why = "nothing older than 1y may go; 14 stay: PACS did not prove to have them within the last hours"
    eventually(lambda: filling.logged(f"down to 8 GB, but {why}"))
    filling.looked()
    assert purging.deleted() == []
    assert len(purging.purges()) == 7  # of two each


def test_while_a_destination_is_away_a_rule_by_space_begins_no_more_purges(
    filling: Filling, purging: Elsewhere
) -> None:
    def fail(*_: Any) -> None:
        raise purging.rest.error(500, "no route")

    echo = ("POST", "/modalities/PACS/echo")
    purging.before, purging.rest.answers[echo] = fail, purging.rest.error(500, "no route")
    filling.start(Rules=[BY_SPACE])
    eventually(lambda: filling.logged("rule keep room frees nothing: PACS does not answer: no route"))
    number = len(purging.purges())
    filling.looked()
    assert len(purging.purges()) == number
    purging.before, purging.rest.answers[echo] = lambda *_: None, {}
    eventually(purging.deleted)


def test_a_study_that_could_not_be_asked_for_is_not_left_out(filling: Filling, purging: Elsewhere) -> None:
    failures = [1]

    def fail(*_: Any) -> None:
        if failures:
            failures.pop()
            raise purging.rest.error(500, "no route")

    purging.before = fail
    purging.has("PACS", ["a101"])
    filling.start(Rules=[{**BY_SPACE, "AtMost": 1}])
    eventually(lambda: "a101" not in purging.found)
    assert purging.why(1) == {"a101": "PACS has not proved to have it: no route"}


def test_few_studies_are_remembered(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = source("purge_old_studies.elsewhere")
    monkeypatch.setattr(module, "MOST_REMEMBERED", 2)
    found, question = module.Elsewhere({}, None), (("PACS",), "C-FIND")
    asked = types.SimpleNamespace(only_if_at=question[0], proof=question[1])
    studies = [types.SimpleNamespace(id=f"a{number}", received="20000101T000000") for number in range(3)]
    for study in (studies[0], studies[1], studies[0], studies[2]):
        found.note_lacking(study, *question)
    assert [found.has_lacked(study, asked) for study in studies] == [True, False, True]
    studies[0].received = "20260101T000000"
    assert not found.has_lacked(studies[0], asked)
