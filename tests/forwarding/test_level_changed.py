# SPDX-License-Identifier: AGPL-3.0-or-later
"""What was arriving when Orthanc was killed goes by the rules of the new level, on a real Orthanc."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from testing.awkward import AwkwardNode
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc

BUILT = Path(__file__).parents[2] / "auto_forward_modality.py"


def arrived(ledger: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT COUNT(*) FROM arrived").fetchone()[0])


@pytest.mark.parametrize(("before", "after"), [("Study", "Series"), ("Series", "Patient")])
def test_what_was_arriving_goes_by_the_rules_of_the_new_level(
    start_briefly: StartOrthanc, before: str, after: str
) -> None:
    with AwkwardNode("PACS") as node:
        modalities = {"PACS": node.as_modality()}
        rules = {"Rules": [{"Name": "one", "Level": before}]}
        server = start_briefly(BUILT, {"DicomModalities": modalities, "AutoForwardModality": rules, "StableAge": 600})
        server.store(make_study(instances=3))
        ledger = server.folder / "storage" / "auto_forward_modality.sqlite"
        server.wait_until(lambda: arrived(ledger) == 3, what="read that they have arrived")
        server.kill()
        rules = {"Rules": [{"Name": "one", "Level": after}]}
        server.configuration |= {"AutoForwardModality": rules, "StableAge": 1}
        server.start()
        server.wait_until(lambda: len(node.received) >= 3, what="send them")
        assert len(node.taken) == 3
