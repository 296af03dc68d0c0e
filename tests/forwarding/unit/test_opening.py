# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/forwarder.py: how its state is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import FakeOrthanc, Script, eventually


def test_a_ledger_that_was_opened_is_closed_when_the_rest_fails_and_opened_again(
    start: Callable[..., Script],
    source: Any,
    rest: FakeOrthanc,
    orthanc_standin: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, faults = source("forwarding.forwarder"), [sqlite3.OperationalError("disk I/O error")]
    engine = module.Engine

    def make(*arguments: Any, **more: Any) -> Any:
        if faults:
            raise faults.pop()
        return engine(*arguments, **more)

    monkeypatch.setattr(module, "Engine", make)
    script = start("auto_forward_modality", {"AutoForwardModality": {"Destinations": ["PACS"]}})
    eventually(lambda: not faults and orthanc_standin.http("GET", "/auto-forward-modality/status").status == 200)
    assert script.get("/auto-forward-modality/status")["State"] == "running"
    orthanc_standin.assert_logged("auto-forward-modality is idle until this is over: disk I/O error", "error")
