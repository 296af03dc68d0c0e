# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/, on a real Orthanc: a node that takes one association at a time gets one at a time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from testing.awkward import AwkwardNode
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer

BUILT = Path(__file__).parents[2] / "auto_forward_modality.py"
ROUTE = "/auto-forward-modality"


def wait_until_done(server: OrthancServer, studies: int) -> None:
    def all_done() -> bool:
        return bool(server.get(f"{ROUTE}/status")["Totals"] == {**dict.fromkeys(STATES, 0), "done": studies})

    server.wait_until(all_done, timeout=60, what="deliver all")


STATES = ("waiting", "sending", "done", "gone", "dead")


def store(server: OrthancServer, studies: int, seed: str) -> None:
    for number in range(studies):
        server.store(make_study(patient_id=f"{seed}{number}", instances=20, rows=8, columns=8))


def test_a_node_with_one_association_is_noticed_and_remembered(start_orthanc: StartOrthanc) -> None:
    with AwkwardNode("PACS", one_association=True, seconds_per_image=0.02) as node:
        configuration: dict[str, Any] = {"DicomModalities": {"PACS": node.as_modality()}, "ConcurrentJobs": 4}
        server = start_orthanc(BUILT, configuration)
        store(server, 5, "FIRST")
        server.wait_until(lambda: node.received, what="begin")
        begun = time.monotonic()
        wait_until_done(server, 5)
        assert time.monotonic() - begun < 20  # 74 s, and up to minutes, if rejections count as failures
        assert len({image for image, _ in node.received}) == len(node.received) == 100
        assert node.most_at_once == 1
        assert 1 <= node.rejections <= 5  # what was submitted ahead, once
        shown = server.get(f"{ROUTE}/destinations")["PACS"]
        assert shown["OneAtATimeUntil"] is not None
        assert (shown["Away"], shown["Error"]) == (False, "")
        assert server.log.count("PACS rejected an association while it had another one") == 1
        server.assert_not_logged("did not reach")
        rejections = node.rejections
        server.restart()
        assert server.get(f"{ROUTE}/destinations")["PACS"]["OneAtATimeUntil"] == shown["OneAtATimeUntil"]
        store(server, 3, "SECOND")
        wait_until_done(server, 8)
        assert node.rejections == rejections
