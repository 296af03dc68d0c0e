# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/assignment.py: what came before a rule matched goes too when it matches, and no level sends a second time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes import FakeOrthanc, eventually
from tests.forwarding.unit.fake_forwarding import NAME, Forwarding

A1 = "-".join(["000000a1"] * 5)
PT = {"Name": "pt", "Query": {"ModalitiesInStudy": "PT"}, "Destinations": ["PACS"]}
ALL = {"Name": "all", "Destinations": ["VNA"]}


def matching(rest: FakeOrthanc, *resources: str) -> None:
    """What Orthanc answers to a Query from now on."""
    rest.answers["POST", "/tools/find"] = list(resources)


def end_all(forwarding: Forwarding) -> None:
    for job in list(forwarding.rest.jobs):
        forwarding.end(job)
    forwarding.turn()


@pytest.mark.parametrize("mode", ["first", "all"])
def test_a_rule_that_begins_to_match_sends_what_came_before(forwarding: Forwarding, mode: str) -> None:
    forwarding.start(RuleMode=mode, Destinations=None, Rules=[PT, ALL])
    matching(forwarding.rest)
    forwarding.receive(A1, "ct1", "ct2")
    assert (forwarding.sent("PACS"), forwarding.sent("VNA")) == ([], [["ct1", "ct2"]])
    matching(forwarding.rest, A1)
    end_all(forwarding)
    forwarding.receive(A1, "pt1")
    assert forwarding.sent("PACS") == [["ct1", "ct2", "pt1"]]
    end_all(forwarding)
    forwarding.receive(A1, "pt2")  # that is no news
    assert forwarding.sent("PACS") == [["ct1", "ct2", "pt1"], ["pt2"]]
    assert forwarding.sent("VNA")[1:] == ([] if mode == "first" else [["pt1"], ["pt2"]])


def test_what_the_archive_held_before_the_ledger_is_not_sent_by_a_late_image(forwarding: Forwarding) -> None:
    forwarding.clock.advance(-3600)
    forwarding.rest.receive(A1, "old")
    forwarding.rest.become_stable(A1)
    forwarding.clock.advance(3600)
    forwarding.start(Rules=[PT])
    matching(forwarding.rest, A1)
    forwarding.receive(A1, "pt1")
    assert forwarding.sent() == [["pt1"]]


def test_it_is_remembered_over_a_restart_and_forgotten_with_the_study(forwarding: Forwarding) -> None:
    forwarding.start(Rules=[PT])
    matching(forwarding.rest)
    other = "-".join(["000000b2"] * 5)
    forwarding.receive(A1, "ct1")
    forwarding.receive(other, "ct2")
    forwarding.start(Rules=[PT])
    forwarding.script.change("DELETED", other, "STUDY")
    forwarding.script.change("DELETED", A1, "STUDY")  # of an instance that is overwritten: the study is here again
    del forwarding.rest.studies[other]
    for _ in range(3):
        forwarding.turn(10)
    matching(forwarding.rest, A1, other)
    forwarding.rest.studies[other] = ["older"]
    forwarding.receive(other, "pt2")
    forwarding.receive(A1, "pt1")
    assert forwarding.sent() == [["pt2"], ["ct1", "pt1"]]


def test_what_a_rule_leaves_to_others_stays_with_them_when_it_begins_to_match(forwarding: Forwarding) -> None:
    """The rule wants what came from one node only; what came from the destination never goes back to it."""
    forwarding.start(RuleMode="all", Rules=[{**PT, "Origin": {"RemoteAET": ["CT*", "PACS"]}}])
    matching(forwarding.rest)
    forwarding.rest.receive(A1, "ct1", RemoteAET="CT1")
    forwarding.rest.receive(A1, "ct2", RemoteAET="PACS")
    forwarding.receive(A1, "sr1", RemoteAET="WARD")
    matching(forwarding.rest, A1)
    forwarding.receive(A1, "sr2", RemoteAET="WARD")
    assert forwarding.sent() == []
    forwarding.receive(A1, "pt1", RemoteAET="CT1")
    assert forwarding.sent() == [["ct1", "pt1"]]


def test_one_rule_for_some_of_a_study_does_not_make_another_one_forget_the_rest(forwarding: Forwarding) -> None:
    reports = {"Name": "reports", "Origin": {"RemoteAET": ["WARD"]}, "Destinations": ["PACS"]}
    forwarding.start(RuleMode="all", Rules=[PT, reports])
    matching(forwarding.rest)
    forwarding.receive(A1, "ct1", RemoteAET="CT1")
    forwarding.receive(A1, "sr1", RemoteAET="WARD")
    matching(forwarding.rest, A1)
    end_all(forwarding)
    forwarding.receive(A1, "pt1", RemoteAET="CT1")
    assert forwarding.sent() == [["sr1"], ["ct1", "pt1"]]


def test_what_still_comes_by_itself_is_not_sent_by_what_came_later(forwarding: Forwarding, tmp_path: Any) -> None:
    """A matcher failed for a while: two batches of the study wait to be routed when it begins to choose."""
    (tmp_path / "m.py").write_text(
        "from pathlib import Path\ndef f(_):\n    return json.loads(Path(__file__).with_name('to').read_text())\nimport json\n"
    )
    to = tmp_path / "to"
    to.write_text("[]")
    forwarding.start(Rules=[{"Name": "mine", "Matcher": "m.py:f"}])
    forwarding.receive(A1, "i1")
    to.unlink()
    forwarding.receive(A1, "i2")
    forwarding.receive(A1, "i3")
    forwarding.rest.receive(A1, "i4")  # not stable yet
    to.write_text('["PACS"]')
    forwarding.turn(40)
    end_all(forwarding)
    assert sorted(one for some in forwarding.sent() for one in some) == ["i1", "i2", "i3"]
    forwarding.rest.become_stable(A1)
    forwarding.turn()
    end_all(forwarding)
    assert sorted(one for some in forwarding.sent() for one in some) == ["i1", "i2", "i3", "i4"]


def test_what_a_test_of_the_rules_says_is_what_is_done(forwarding: Forwarding) -> None:
    forwarding.start(Destinations=["PACS", "VNA"], SkipModified=True)
    forwarding.rest.receive(A1, "i1", RemoteAET="PACS")
    forwarding.rest.receive(A1, "i2")
    forwarding.receive(A1, "i3", ModifiedFrom="i0")
    [rule] = json.loads(forwarding.script.post(f"{NAME}/rules/test", {"Resource": A1}).text)["Rules"]
    assert rule["Destinations"] == {"PACS": 1, "VNA": 2}
    assert (forwarding.sent("PACS"), forwarding.sent("VNA")) == ([["i2"]], [["i1", "i2"]])


# Two levels

LEVELS = [
    {"Name": "studies", "Destinations": ["PACS"]},
    {"Name": "series", "Level": "Series", "Destinations": ["PACS"]},
]
Arrive = Callable[..., None]


@pytest.fixture
def arrive(forwarding: Forwarding) -> Arrive:
    """The images arrive, and series and study become stable, in this order or another; all that is sent ends well."""
    others = iter(range(100, 200))

    def become_stable(study: str, level: str = "Study") -> None:
        name = study if level == "Study" else f"{study}-5e"
        forwarding.rest._log(f"Stable{level}", level, name)
        forwarding.script.change(f"STABLE_{level.upper()}", name, level.upper())

    def receive(study: str, *instances: str) -> None:
        forwarding.rest.receive(study, *instances)
        for instance in instances:
            forwarding.script.change("NEW_INSTANCE", instance, "INSTANCE")

    def wait_until_sent() -> None:
        """When what comes after it is through, so is what came before."""
        other = f"x{next(others)}"
        receive(other, f"i-{other}")
        become_stable(other, "Series")
        eventually(lambda: [f"i-{other}"] in forwarding.sent())
        eventually(all_has_ended)

    def all_has_ended() -> bool:
        for job, content in list(forwarding.rest.jobs.items()):
            if content["State"] == "Pending":
                forwarding.end(job)
        return not {"waiting", "sending"}.intersection(forwarding.states())

    def arrive(*instances: str, levels: tuple[str, ...] = ("Series", "Study")) -> None:
        receive(A1, *instances)
        for level in levels:
            become_stable(A1, level)
            wait_until_sent()

    return arrive


def sent(forwarding: Forwarding) -> list[list[str]]:
    return [some for some in forwarding.sent() if not some[0].startswith("i-x")]


@pytest.mark.parametrize("reconcile", [True, False])
@pytest.mark.parametrize("mode", ["first", "all"])
@pytest.mark.parametrize("order", [("Series", "Study"), ("Study", "Series")])
def test_rules_of_two_levels_send_each_image_once(
    forwarding: Forwarding, arrive: Arrive, order: tuple[str, ...], mode: str, reconcile: bool
) -> None:
    forwarding.start(RuleMode=mode, Rules=LEVELS, KeepDoneDays=0, Reconcile=reconcile)
    arrive("i1", "i2", levels=order)
    assert sent(forwarding) == [["i1", "i2"]]
    arrive("i3", levels=order)
    assert sent(forwarding) == [["i1", "i2"], ["i3"]]


def test_an_image_that_was_deleted_and_comes_again_is_sent_again(forwarding: Forwarding, arrive: Arrive) -> None:
    forwarding.start(RuleMode="all", Rules=LEVELS)
    arrive("i1", levels=("Series",))
    del forwarding.rest.studies[A1]
    arrive("i1")
    assert sent(forwarding) == [["i1"], ["i1"]]


def test_what_was_routed_at_both_levels_is_not_remembered(source: Any, forwarding: Forwarding, arrive: Arrive) -> None:
    forwarding.start(RuleMode="all", Rules=LEVELS)
    arrive("i1", levels=("Series",))
    callbacks = source("common.quirks").KEPT_ALIVE
    ledger = next(each.__self__.engine.ledger for each in callbacks if hasattr(getattr(each, "__self__", 0), "engine"))

    def remembered() -> list[str]:
        for _ in range(2):
            forwarding.turn(10)
        return [row["instance"] for row in ledger.rows("SELECT instance FROM given") if row["instance"] in ("i1", "i2")]

    assert remembered() == ["i1"]
    arrive("i2")
    assert remembered() == []


def test_what_one_level_could_not_route_for_a_while_is_not_sent_a_second_time(
    forwarding: Forwarding, tmp_path: Any
) -> None:
    (tmp_path / "m.py").write_text(
        "from pathlib import Path\ndef f(_):\n    return Path(__file__).with_name('to').read_text()\n"
    )
    forwarding.start(Rules=[{"Name": "mine", "Matcher": "m.py:f"}, LEVELS[1]])
    forwarding.rest.receive(A1, "i1")
    forwarding.rest._log("StableSeries", "Series", f"{A1}-5e")
    forwarding.rest.become_stable(A1)
    forwarding.turn()
    end_all(forwarding)
    for _ in range(3):
        forwarding.turn(10)  # what is routed at every level is forgotten
    (tmp_path / "to").write_text("PACS")
    forwarding.turn(40)
    end_all(forwarding)
    assert forwarding.sent() == [["i1"]]
    assert set(forwarding.states()) == {"done"}


def test_what_another_level_has_sent_is_not_sent_by_a_rule_that_begins_to_match(
    forwarding: Forwarding, arrive: Arrive
) -> None:
    forwarding.start(RuleMode="all", Rules=[PT, {"Name": "series", "Level": "Series", "Destinations": ["PACS"]}])
    matching(forwarding.rest)
    arrive("ct1")
    for _ in range(2):
        forwarding.turn(10)
    matching(forwarding.rest, A1)
    arrive("pt1")
    assert sent(forwarding) == [["ct1"], ["pt1"]]


def test_two_rules_of_one_level_send_each_image_once_too(forwarding: Forwarding) -> None:
    rules = [{"Name": "low", "Destinations": ["PACS"]}, {"Name": "high", "Destinations": ["PACS"], "Priority": 5}]
    forwarding.start(RuleMode="all", Rules=rules)
    forwarding.receive(A1, "i1")
    end_all(forwarding)
    assert sent(forwarding) == [["i1"]]
