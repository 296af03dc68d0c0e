# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_retries without a server: destinations that change, and Orthanc's end, while something is asked."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import FakeOrthanc


def test_what_was_asked_before_a_change_does_not_count_after_it(source: Any, orthanc_standin: StandIn) -> None:
    known = source("auto_retries.known_destinations").KnownDestinations()
    answers = [{"PACS": {"AET": "OLD"}}, {"PACS": {"AET": "NEW"}}]

    def answer(_: Any) -> Any:
        if len(answers) == 2:
            known.on_updated()  # the event comes while the old one is on its way
        return answers.pop(0)

    orthanc_standin.answers["GET", "/modalities?expand"] = answer
    known.of("modalities")
    assert known.of("modalities") == {"PACS": {"AET": "NEW"}}
    assert known.of("modalities") == {"PACS": {"AET": "NEW"}}


@pytest.mark.parametrize("why", ["", "no Orthanc"])
def test_no_attempt_begins_after_orthancs_end_which_came_while_the_peer_was_asked(
    source: Any, rest: FakeOrthanc, tmp_path: Path, why: str
) -> None:
    ledger = source("common.ledger").Ledger(tmp_path / "x.sqlite", source("auto_retries.watched").WATCHED_TABLE)
    stopping = threading.Event()

    def why_not(_name: str) -> str:
        stopping.set()
        return why

    destinations: Any = SimpleNamespace(of=lambda _: {"research": {"Url": "http://x/"}})
    attempts = source("auto_retries.attempts").Attempts(
        *(ledger, source("auto_retries.watched").Watched(ledger), None, source("common.loopback").Loopback({})),
        *(
            destinations,
            SimpleNamespace(why_not=why_not),
            SimpleNamespace(still_here=lambda _: [{"ID": "i1"}]),
            stopping,
        ),
    )
    data = {"Type": "OrthancPeerStore", "Names": ["research"], "Target": "http://x/", "Priority": 0,
            "Addresses": ["http://x/ "], "Body": {"Resources": ["i1"]}}  # fmt: skip
    ledger.add("research", "j1", data)
    attempts.run_due(1, 3600)
    assert [row["state"] for row in ledger.rows("SELECT state FROM work")] == ["waiting"]
    assert rest.asked("POST", "/peers/research/store") == []
    ledger.close()
