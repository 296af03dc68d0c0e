# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/jobs.py: two nodes of one AE title, on two hosts, whose jobs Orthanc shows alike."""

from __future__ import annotations

from typing import Any

from tests.forwarding.unit.fake_forwarding import Forwarding


def test_a_job_that_may_be_for_another_node_is_not_taken_for_a_delivery(forwarding: Forwarding) -> None:
    """A job to VNA is under way, as somebody has sent the same there, and whether there is one to PACS is not known."""
    forwarding.rest.known = {name: {"AET": "ORTHANC", "Host": name.lower(), "Port": 104} for name in ("PACS", "VNA")}
    forwarding.start()
    forwarding.turn()

    def answer(path: str, body: Any) -> Any:
        del forwarding.rest.answers["POST", path]
        content = {"RemoteAet": "ORTHANC", "ParentResources": ["i1"]}
        forwarding.rest.jobs["VNA-1"] = {
            "ID": "VNA-1", "Type": "DicomModalityStore", "State": "Running", "Content": content,
        }  # fmt: skip
        return forwarding.rest.error(0, "no answer")

    forwarding.rest.answers["POST", "/modalities/PACS/store"] = answer
    forwarding.receive("a1", "i1")
    for _ in range(3):
        forwarding.turn(5)
    assert forwarding.sent() == [["i1"], ["i1"]]
    assert [row["Job"] for row in forwarding.deliveries()] == ["PACS-2"]
