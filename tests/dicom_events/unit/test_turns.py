# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events without a server: requests that ask Orthanc come at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import REAL_EVENT, FakeOrthanc, Script

NAME = "/dicom-events"
A1 = "-".join(["000000a1"] * 5)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("catch-up", {"Since": "2026-01-31"}),
        ("replay", {"Study": A1}),
        ("replay", {"Study": "1.2.3"}),
        ("replay", {"From": "2026-01-30", "To": "2026-01-31"}),
    ],
)
def test_requests_that_ask_orthanc_never_have_all_its_threads(
    start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn, route: str, body: dict[str, Any]
) -> None:
    """If they had, none were left to answer them."""
    script = start("dicom_events", {"HttpThreadsCount": 6})
    script.get(f"{NAME}/status")
    answered, arrived = REAL_EVENT(), threading.Semaphore(0)

    def wait(path: str, _body: Any) -> Any:
        if not threading.current_thread().name.startswith("asks"):  # the script itself
            return {"Changes": [], "Last": 0, "Done": True}
        arrived.release()
        answered.wait(10)
        return {"Last": 0, "ID": A1} if path != "/tools/find" and "expand" not in path else []

    rest.answers |= dict.fromkeys(
        [("GET", "/changes"), ("GET", f"/studies/{A1}"), ("GET", "/studies"), ("POST", "/tools/find")], wait
    )
    answers: list[Any] = []

    def ask() -> None:
        answers.append(script.post(f"{NAME}/{route}", body))

    threads = [threading.Thread(target=ask, name=f"asks {number}") for number in range(2)]
    for thread in threads:
        thread.start()
        assert arrived.acquire(timeout=10)
    refused = script.post(f"{NAME}/{route}", body)
    answered.set()
    for thread in threads:
        thread.join(10)
    assert (refused.status, refused.json()["Message"]) == (503, "Too many requests at a time; try again")
    assert orthanc_standin.http("GET", f"{NAME}/status").status == 200
    assert not any("Too many" in answer.text for answer in answers)
    assert "Too many" not in script.post(f"{NAME}/{route}", body).text
