# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding: what was received since a time goes where the rules say, but nothing that the ledger knows of."""

from __future__ import annotations

import time
import urllib.parse
from typing import Any

import pytest

from tests.fakes import eventually
from tests.forwarding.unit.fake_forwarding import NAME, OTHER_STUDY, STUDY, Forwarding

BOTH = ["PACS", "VNA"]


def iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def catch_up(forwarding: Forwarding, since: float, **more: Any) -> Any:
    """Ask for it; if it is no dry run, let time pass until all is read and routed."""
    answer = forwarding.script.post(f"{NAME}/catch-up", {"Since": iso(since), **more})
    if more.get("DryRun") is False:
        eventually(lambda: not forwarding.script.get(f"{NAME}/catch-up")["UnderWay"])
        forwarding.turn()
    return answer.json()


def deliver(forwarding: Forwarding, study: str, *instances: str) -> None:
    """A study arrives, and its destination gets it."""
    forwarding.receive(study, *instances)
    job = eventually(lambda: [name for name, job in forwarding.rest.jobs.items() if job["State"] == "Pending"])
    forwarding.end(job[-1])
    forwarding.turn()


def restart(forwarding: Forwarding, **section: Any) -> None:
    forwarding.script.change("ORTHANC_STOPPED")
    forwarding.start(**section)
    forwarding.turn()


def test_only_what_a_destination_was_not_given(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.turn()
    began = time.time()
    deliver(forwarding, STUDY, "i1", "i2")
    restart(forwarding, Destinations=BOTH)
    counted = catch_up(forwarding, began)
    assert (counted["Studies"], counted["Instances"], counted["Destinations"]) == (1, 2, {"PACS": 0, "VNA": 2})
    assert forwarding.sent("VNA") == []
    catch_up(forwarding, began, DryRun=False)
    assert forwarding.sent("VNA") == [["i1", "i2"]]
    assert forwarding.sent("PACS") == [["i1", "i2"]], "as before"


def test_nothing_from_before_and_nothing_that_was_deleted(forwarding: Forwarding) -> None:
    forwarding.start(Destinations=[])
    forwarding.turn()
    forwarding.receive(STUDY, "early")
    forwarding.receive(OTHER_STUDY, "i0")
    forwarding.turn(10)
    began = time.time()
    forwarding.turn(10)
    forwarding.receive(OTHER_STUDY, "i1", "i2")
    forwarding.receive("third", "i3")
    del forwarding.rest.studies["third"]
    forwarding.rest.studies[OTHER_STUDY].remove("i2")
    restart(forwarding)
    catch_up(forwarding, began, DryRun=False)
    assert forwarding.sent() == [["i1"]]


@pytest.mark.parametrize(("later", "expected"), [(False, []), (True, [["i1", "i2", "i3"]])])
def test_what_was_sent_whole_afterwards_is_there(
    forwarding: Forwarding, later: bool, expected: list[list[str]]
) -> None:
    forwarding.start(Rules=[{"Name": "nobody", "Destinations": []}])
    forwarding.turn()
    began = time.time()
    forwarding.receive(STUDY, "i1", "i2")
    forwarding.turn(10)
    forwarding.script.post(f"{NAME}/send", {"Resource": STUDY, "Destinations": ["PACS"]})
    forwarding.turn(10)
    forwarding.end("PACS-1")
    forwarding.turn(10)
    if later:
        forwarding.receive(STUDY, "i3")
    before = len(forwarding.sent())
    restart(forwarding, Rules=[{"Name": "all"}])
    catch_up(forwarding, began, DryRun=False)
    assert forwarding.sent()[before:] == expected


def test_what_comes_by_itself_is_not_sent_before_it_is_stable(forwarding: Forwarding) -> None:
    forwarding.start({"StableAge": 1000})
    forwarding.turn()
    began = time.time()
    forwarding.rest.receive(STUDY, "i1")
    forwarding.turn()
    assert catch_up(forwarding, began)["Destinations"] == {"PACS": 0}
    catch_up(forwarding, began, DryRun=False)
    assert forwarding.sent() == []
    forwarding.rest.become_stable(STUDY)
    forwarding.turn()
    assert forwarding.sent() == [["i1"]]


def test_a_time_yet_to_come_is_refused(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.turn()
    for dry in (True, False):
        answer = forwarding.script.post(f"{NAME}/catch-up", {"Since": iso(time.time() + 2), "DryRun": dry})
        assert (answer.status, "a time yet to come; allowed: up to now" in answer.json()["Message"]) == (400, True)
    assert "Changes" in catch_up(forwarding, time.time())


def test_a_second_one_is_refused_while_one_is_under_way(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.turn()
    began = time.time()
    forwarding.receive(STUDY, "i1")
    real = forwarding.rest._changes

    def answer(path: str, _body: Any) -> Any:
        query = dict(urllib.parse.parse_qsl(path.partition("?")[2], keep_blank_values=True)) or {"last": ""}
        return forwarding.rest.error(503) if query.get("limit") == "500" else real(query)

    forwarding.rest.answers["GET", "/changes"] = answer
    body = {"Since": iso(began), "DryRun": False}
    assert forwarding.script.post(f"{NAME}/catch-up", body).status == 202
    second = forwarding.script.post(f"{NAME}/catch-up", body)
    assert (second.status, "under way" in second.json()["Message"]) == (409, True)
    assert forwarding.script.get(f"{NAME}/catch-up")["UnderWay"]
    del forwarding.rest.answers["GET", "/changes"]
    forwarding.turn(10)
    eventually(lambda: not forwarding.script.get(f"{NAME}/catch-up")["UnderWay"])


def test_what_is_asked_for_waits_behind_what_arrives(forwarding: Forwarding) -> None:
    forwarding.start(Destinations=[])
    forwarding.turn()
    began = time.time()
    forwarding.receive(STUDY, "i1")
    restart(forwarding)
    forwarding.script.post(f"{NAME}/destinations/PACS/pause")
    catch_up(forwarding, began, DryRun=False)
    forwarding.receive(OTHER_STUDY, "i2")
    forwarding.script.post(f"{NAME}/destinations/PACS/resume")
    forwarding.turn()
    assert forwarding.sent()[0] == ["i2"]
