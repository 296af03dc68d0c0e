# SPDX-License-Identifier: AGPL-3.0-or-later
"""anonymize_series without a server: what is to be routed at a level that no rule has any more is routed at those there are."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

from tests.anonymize_series.unit.test_owed import RULES, owed
from tests.fakes import Clock, FakeOrthanc, Script, eventually


def test_what_no_rule_was_applied_to_yet(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, tmp_path: Path
) -> None:
    script = start("anonymize_series", {"AnonymizeSeries": RULES})
    eventually(lambda: owed(script) == [])
    script.change("ORTHANC_STOPPED")
    rest.studies["a1"] = ["i1"]
    path = tmp_path / "db" / "anonymize_series.sqlite"
    data = json.dumps({"Level": "Series", "Instances": ["i1"], "UID": "", "Origins": {}})
    values = "'', 'a1-5e', 'sending', 1, 0, '', NULL, ?, 0, 0, 0, 'route', 0"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(f"INSERT INTO work VALUES(NULL, {values})", (data,))
    start("anonymize_series", {"AnonymizeSeries": RULES})

    def tasks() -> list[tuple[str, str]]:
        clock.advance(30)
        with contextlib.closing(sqlite3.connect(path)) as db:
            return db.execute("SELECT task, subject FROM work").fetchall()

    eventually(lambda: tasks() == [("anonymize", "a1")])
