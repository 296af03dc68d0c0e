# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events on a real Orthanc: series that tell few of their images, and origins that tell none."""

from __future__ import annotations

import itertools
from typing import Any

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.dicom_events.helpers import NEVER_STABLE, SCRIPT, events, of_type, wait_for


def test_throttled_a_series_tells_its_first_at_once_and_its_last_with_the_count(start_orthanc: StartOrthanc) -> None:
    settings = {"Events": {"StoredInstanceThrottleMs": 700}}
    server = start_orthanc(SCRIPT, {"DicomEvents": settings, **NEVER_STABLE})
    study = make_study(series=2, instances=20)
    server.store(itertools.chain.from_iterable(zip(study[:20], study[20:], strict=True)))

    def told() -> list[dict[str, Any]]:
        found = of_type(events(server), "dicom.instance.stored")
        last = {event["data"]["orthanc"]["series"]: event["data"]["counts"]["instances"] for event in found}
        return found if list(last.values()) == [20, 20] else []

    found = server.wait_until(told, what="the last of both series")
    for series in server.get("/series"):
        mine = [event for event in found if event["data"]["orthanc"]["series"] == series]
        counts = [event["data"]["counts"]["instances"] for event in mine]
        assert counts[0] == 1
        assert counts == sorted(set(counts))
        assert len(counts) < 10


def test_what_throttling_holds_back_survives_kill_9(start_orthanc: StartOrthanc) -> None:
    settings = {"Events": {"StoredInstanceThrottleMs": 3000}}
    server = start_orthanc(SCRIPT, {"DicomEvents": settings, **NEVER_STABLE})
    server.store(make_study(instances=5))
    wait_for(server, "dicom.instance.stored")
    server.kill()
    server.start()
    found = wait_for(server, "dicom.instance.stored", 2)
    assert [event["data"]["counts"]["instances"] for event in found] == [1, 5]


def test_the_last_throttled_image_is_told_before_its_series_is_stable(start_orthanc: StartOrthanc) -> None:
    settings = {"Events": {"StoredInstanceThrottleMs": 3_600_000}}
    server = start_orthanc(SCRIPT, {"DicomEvents": settings})
    server.store(make_study(instances=5))
    wait_for(server, "dicom.series.stable")
    found = [event for event in events(server) if event["type"] in ("dicom.instance.stored", "dicom.series.stable")]
    assert [event["data"]["counts"]["instances"] for event in found] == [1, 5, 5]


def test_images_of_an_origin_to_skip_are_not_told_but_their_series_is(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Events": {"StoredInstanceSkipOrigin": ["REST_API"]}}})
    server.store(make_study(instances=2, seed=1))
    server.store_scu(make_study(instances=1, seed=2))
    wait_for(server, "dicom.series.stable", 2)
    assert [event["data"]["origin"]["kind"] for event in of_type(events(server), "dicom.instance.stored")] == [
        "DICOM_PROTOCOL"
    ]
