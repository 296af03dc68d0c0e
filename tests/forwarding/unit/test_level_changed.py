# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding: what is to be routed at a level that no rule has any more is routed at those there are."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import eventually
from tests.forwarding.unit.fake_forwarding import Forwarding


def rules(level: str) -> dict[str, Any]:
    return {"Rules": [{"Name": "one", "Level": level}]}


def on_disk(tmp_path: Path, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(tmp_path / "db" / "auto_forward_modality.sqlite")) as db, db:
        return db.execute(sql).fetchall()


def arrived(tmp_path: Path) -> list[tuple[Any, ...]]:
    return on_disk(tmp_path, "SELECT instance FROM arrived ORDER BY instance")


def wait_for(forwarding: Forwarding, condition: Callable[[], Any]) -> None:
    """Let time pass until something is so."""

    def look() -> Any:
        forwarding.clock.advance(5)
        forwarding.script.change("JOB_SUCCESS", "another")  # wakes it
        return condition()

    eventually(look)


@pytest.mark.parametrize("reconcile", [True, False])
def test_what_was_arriving(forwarding: Forwarding, tmp_path: Path, reconcile: bool) -> None:
    forwarding.start({"StableAge": 1000}, **rules("Series"), Reconcile=reconcile)
    wait_for(forwarding, lambda: forwarding.script.get("/auto-forward-modality/status")["State"] == "running")
    forwarding.rest.receive("a1", "i1", "i2")
    for instance in ("i1", "i2"):
        forwarding.script.change("NEW_INSTANCE", instance, "INSTANCE")
    wait_for(forwarding, lambda: arrived(tmp_path) == [("i1",), ("i2",)])
    forwarding.script.change("ORTHANC_STOPPED")
    on_disk(tmp_path, "INSERT INTO heard VALUES('Series', 'a1-5e')")
    forwarding.start({"StableAge": 60}, **rules("Study"), Reconcile=reconcile)
    wait_for(forwarding, lambda: forwarding.sent() == [["i1", "i2"]])
    assert on_disk(tmp_path, "SELECT level FROM arrived UNION SELECT level FROM heard") == []


@pytest.mark.parametrize("state", ["waiting", "dead"])
def test_what_no_rule_was_applied_to_yet(forwarding: Forwarding, tmp_path: Path, state: str) -> None:
    forwarding.start(**rules("Study"))
    forwarding.turn()
    forwarding.rest.answers["POST", "/tools/bulk-content"] = forwarding.rest.error(500)
    forwarding.receive("a1", "i1")
    assert [row["Task"] for row in forwarding.deliveries()] == ["route"]
    forwarding.script.change("ORTHANC_STOPPED")
    del forwarding.rest.answers["POST", "/tools/bulk-content"]
    on_disk(tmp_path, f"UPDATE work SET state='{state}'")
    forwarding.start(**rules("Series"))
    wait_for(forwarding, lambda: forwarding.sent() == [["i1"]])
    assert [row["Task"] for row in forwarding.deliveries()] == ["send"]


def test_where_nothing_is_to_be_sent_by_itself_it_waits_for_a_rule(forwarding: Forwarding, tmp_path: Path) -> None:
    forwarding.start({"StableAge": 1000}, **rules("Study"))
    forwarding.turn()
    forwarding.rest.receive("a1", "i1")
    wait_for(forwarding, lambda: arrived(tmp_path) == [("i1",)])
    forwarding.start({"StableAge": 60}, Rules=[])
    wait_for(forwarding, lambda: forwarding.script.get("/auto-forward-modality/status")["State"] == "running")
    assert arrived(tmp_path) == [("i1",)]
    forwarding.start({"StableAge": 60}, **rules("Series"))
    wait_for(forwarding, lambda: forwarding.sent() == [["i1"]])
