# SPDX-License-Identifier: AGPL-3.0-or-later
"""The condition of several registrations is that of the worst: numbers are read of ledgers that are open."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from testing.standin import StandIn


def test_one_that_does_not_run_comes_before_one_that_has_trouble(source: Any, orthanc_standin: StandIn) -> None:
    status = source("common.status")
    on_change = source("event_dispatcher.dispatcher").OnChange(orthanc_standin.module)
    conditions = [status.Condition(status.RUNNING), status.Condition(status.RUNNING, "the disk is full")]
    on_change._dispatchers = [
        SimpleNamespace(durable_queue=None),
        *(SimpleNamespace(durable_queue=SimpleNamespace(condition=lambda each=each: each)) for each in conditions),
    ]
    assert on_change.look().reason == "the disk is full"
    closed = status.Condition(status.IDLE, "it can't be opened")
    on_change._dispatchers.append(SimpleNamespace(durable_queue=SimpleNamespace(condition=lambda: closed)))
    assert on_change.look() is closed
    on_change._dispatchers = []
    assert on_change.look() == status.Condition(status.RUNNING)
