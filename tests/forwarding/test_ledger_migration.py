# SPDX-License-Identifier: AGPL-3.0-or-later
"""A forwarder goes on with the ledger of its first version, on a real Orthanc."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer

ROOT = Path(__file__).parents[2]
VERSION_1 = (ROOT / "tests" / "data" / "ledger_version_1.sql").read_text()
COLUMNS = "id, queue, subject, state, attempts, next_attempt, error, job, data, created, updated, priority"
TABLES = ("state", "arrived", "given", "heard", "jobs")  # what a forwarder has besides rows of work


def make_version_1_of(path: Path) -> None:
    """Replace a ledger by what the first version of its script would have in its place."""
    kept = path.with_name("kept.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    path.rename(kept)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_1)
        db.execute("ATTACH ? AS kept", (str(kept),))
        for table in TABLES:
            db.execute(f"INSERT INTO {table} SELECT * FROM kept.{table}")
        queue = "CASE task WHEN 'delete' THEN '/delete' ELSE queue END"
        db.execute(f"INSERT INTO work SELECT {COLUMNS.replace('queue', queue)} FROM kept.work")
        db.commit()


def rows(server: OrthancServer) -> dict[str, list[tuple[str, int]]]:
    """State and attempts by task."""
    found: dict[str, list[tuple[str, int]]] = {}
    for item in server.get("/auto-forward-peer/deliveries")["Items"]:
        found.setdefault(item["Task"], []).append((item["State"], item["Attempts"]))
    return found


def test_what_waited_is_sent_and_deleted_and_what_was_sent_is_not_sent_again(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(None)
    peers = {"OrthancPeers": {"DEST": destination.as_peer()}}
    section = {"Destinations": ["DEST"], "DeleteAfterForward": True}
    source = start_orthanc(ROOT / "auto_forward_peer.py", {**peers, "AutoForwardPeer": section})
    source.store_scu(make_study(patient_id="SENT"))
    source.wait_until(lambda: rows(source).get("delete") == [("done", 0)], what="send and delete")
    destination.stop()
    source.store_scu(make_study(patient_id="WAITS", instances=2))
    source.wait_until(lambda: rows(source)["send"][-1][1] > 0 and len(rows(source)["delete"]) == 2, what="try")
    source.kill()
    make_version_1_of(source.folder / "storage" / "auto_forward_peer.sqlite")
    destination.start()
    source.start()
    source.wait_until(
        lambda: [state for state, _ in rows(source)["delete"]] == ["done"] * 2, what="send, delete", timeout=90
    )
    assert [state for state, _ in rows(source)["send"]] == ["done", "done"]
    assert rows(source)["send"][0] == ("done", 1)
    assert len(destination.get("/instances")) == 3
    assert source.get("/instances") == []
    assert sum("is new" in text for _, text in source.log_lines()) <= 1
