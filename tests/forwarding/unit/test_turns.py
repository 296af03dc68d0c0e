# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/ without a server: requests that come at a time, and what is done in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import FakeOrthanc, Script, eventually

NAME = "/auto-forward-modality"
A1 = "-".join(["000000a1"] * 5)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("send", {"Resource": A1}),
        ("rules/test", {"Resource": A1}),
        ("backfill", {"From": "20240101", "To": "20240131", "DryRun": True}),
    ],
)
def test_requests_that_ask_orthanc_never_have_all_its_threads(
    start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn, route: str, body: dict[str, Any]
) -> None:
    """If they had, none were left to answer them."""
    rest.studies[A1] = ["1"]
    script = start("auto_forward_modality", {"HttpThreadsCount": 6})
    script.get(f"{NAME}/status")
    answered, arrived = threading.Event(), threading.Semaphore(0)

    def wait(_path: str, _body: Any) -> Any:
        arrived.release()
        eventually(answered.is_set)
        return [] if route == "backfill" else {"ID": A1, "MainDicomTags": {}}

    rest.answers |= {("GET", f"/studies/{A1}"): wait, ("POST", "/tools/find"): wait}
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(script.post(f"{NAME}/{route}", body))) for _ in range(2)]
    for thread in threads:
        thread.start()
        assert arrived.acquire(timeout=10)
    refused = script.post(f"{NAME}/{route}", body)
    assert (refused.status, refused.json()["Message"]) == (503, "Too many requests at a time; try again")
    assert orthanc_standin.http("GET", f"{NAME}/status").status == 200
    answered.set()
    for thread in threads:
        thread.join(10)
    assert [answer.status for answer in answers] == [202 if route == "send" else 200] * 2
    assert script.post(f"{NAME}/{route}", body).status == answers[0].status


def test_a_matcher_is_tested_in_a_thread_of_its_own(
    start: Callable[..., Script], rest: FakeOrthanc, tmp_path: Path
) -> None:
    """Orthanc's HTTP threads have a stack of 100 KB, and a matcher may do anything."""
    rest.studies[A1] = ["1"]
    (tmp_path / "m.py").write_text("import threading\ndef f(_):\n    return threading.current_thread().name\n")
    script = start("auto_forward_modality", {"AutoForwardModality": {"Rules": [{"Name": "mine", "Matcher": "m.py:f"}]}})
    [rule] = script.post(f"{NAME}/rules/test", {"Resource": A1}).json()["Rules"]
    assert rule["Why"] == "unknown destinations are left out: rules/test"
    (tmp_path / "m.py").write_text("def f(_):\n    raise KeyError('mine')\n")
    script = start("auto_forward_modality", {"AutoForwardModality": {"Rules": [{"Name": "mine", "Matcher": "m.py:f"}]}})
    answer = script.post(f"{NAME}/rules/test", {"Resource": A1})
    assert (answer.status, answer.json()["Message"]) == (422, "A Matcher failed: KeyError('mine')")
