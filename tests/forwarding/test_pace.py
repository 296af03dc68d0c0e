# SPDX-License-Identifier: AGPL-3.0-or-later
"""Receivers as people have them, without TCP_NODELAY: the script says why sending there is slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.constants import QUICK, script_with

SCRIPT = script_with(Path(__file__).parents[2] / "auto_forward_modality.py", QUICK)
ROUTE = "/auto-forward-modality"
NEEDS_TIME = """
import time
import orthanc

orthanc.RegisterOnStoredInstanceCallback(lambda dicom, instance: time.sleep(0.042))
"""
LATE = "answers each image 40 ms late"


def send(source: OrthancServer, studies: int, size: int) -> None:
    """So many studies go out, one after the other."""
    begin = source.get(f"{ROUTE}/status")["Totals"]["done"]
    for number in range(begin, begin + studies):
        source.store(make_study(patient_id=f"P{number}", instances=20, rows=size, columns=size))
        source.wait_until(
            lambda: source.get(f"{ROUTE}/status")["Totals"]["done"] > number,  # noqa: B023 - called here
            what="deliver",
            timeout=30,
        )


def slow(source: OrthancServer) -> Any:
    return source.get(f"{ROUTE}/destinations")["NODE"]["Slow"]


def test_a_receiver_without_tcp_nodelay_is_named_with_the_remedies_once(start_orthanc: StartOrthanc) -> None:
    node = start_orthanc(aet="NODE", environment={"TCP_NODELAY": "0"})
    source = start_orthanc(SCRIPT, {"DicomModalities": {"NODE": node.as_modality()}})
    for size in (16, 64, 256, 16, 64, 256):
        send(source, 1, size)
    source.wait_until(lambda: slow(source), what="say so")
    assert all(each in slow(source) for each in (LATE, "TCP_NODELAY=1", "quickack 1", "ConcurrentJobs"))
    send(source, 2, 64)
    assert source.log.count(LATE) == 1
    source.assert_logged(f"auto-forward-modality: NODE {LATE}", level="warning")


def test_a_receiver_with_it_and_a_node_that_needs_the_time_for_each_image_are_not_named(
    start_orthanc: StartOrthanc,
) -> None:
    node = start_orthanc(aet="NODE")
    source = start_orthanc(SCRIPT, {"DicomModalities": {"NODE": node.as_modality()}})
    send(source, 4, 64)
    needs_time = start_orthanc(NEEDS_TIME, aet="NODE")
    aet, host, port = needs_time.as_modality()
    source.request("PUT", "/modalities/NODE", json={"AET": aet, "Host": host, "Port": port})
    send(source, 4, 64)
    assert slow(source) is None
    assert LATE not in source.log
