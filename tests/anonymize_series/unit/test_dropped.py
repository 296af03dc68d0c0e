# SPDX-License-Identifier: AGPL-3.0-or-later
"""anonymize_series without a server: what a person drops is not made."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def test_what_a_person_drops_while_those_before_it_are_made_is_not_made(source: Any, tmp_path: Path) -> None:
    ledger = source("common.ledger").Ledger(tmp_path / "x.sqlite")
    work = source("common.work").Work(ledger)
    attempts = source("anonymize_series.attempts").Attempts(
        ledger, work, source("common.retry").Retry(), threading.Event(), source("common.worker").Trouble("x")
    )
    rows = [ledger.add("research", name, {}, task="anonymize") for name in ("a1", "b2", "c3")]
    made: list[str] = []

    def make(row: Mapping[str, Any], _data: Mapping[str, Any]) -> None:
        made.append(row["subject"])
        work.remove(rows[1], ("waiting",))
        ledger.end(row["id"], "done")

    attempts.work_off("anonymize", "research", make)
    assert made == ["a1", "c3"]
    ledger.close()
