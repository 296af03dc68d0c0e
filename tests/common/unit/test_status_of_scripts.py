# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a probe gets of scripts that decide their state by more than their worker."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually


def health(standin: StandIn) -> tuple[int | None, Any]:
    answer = standin.http("GET", "/scripts/health")
    return answer.status, answer.json()


def test_a_purge_whose_clock_is_doubted_tells_the_probe(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn
) -> None:
    clock.now = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC).timestamp()
    script = start("purge_old_studies")
    eventually(lambda: health(orthanc_standin)[0] == 200)
    clock.jump(3 * 365 * 86400)
    status, found = health(orthanc_standin)
    assert status == 503
    assert "The clock says" in found["Message"]
    shown = script.get("/purge-old-studies/status")
    assert (shown["State"], shown["Reason"]) == ("running", found["Unhealthy"][0]["Reason"])
    clock.jump(-3 * 365 * 86400)
    assert health(orthanc_standin)[0] == 200


def test_thumbnails_with_too_few_threads_are_misconfigured(
    start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn
) -> None:
    start("series_thumbnail", {"UserMetadata": {}, "HttpThreadsCount": 4})
    status, found = health(orthanc_standin)
    assert (status, found["Unhealthy"][0]["State"]) == (503, "misconfigured")
    assert "HttpThreadsCount is 4, allowed: at least 5" in found["Message"]


def test_a_broker_that_is_off_is_a_reason_of_dicom_events(
    start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn
) -> None:
    brokers = {"good": {"Type": "log"}, "bad": {"Type": "rabbitmq", "RabbitConfig": {"Urll": "amqp://h/"}}}
    script = start("dicom_events", {"DicomEvents": {"Brokers": brokers}})
    off = 'the broker "bad" is off: DicomEvents.Brokers.bad.RabbitConfig.Urll'
    eventually(lambda: off in health(orthanc_standin)[1].get("Message", ""))
    assert health(orthanc_standin)[0] == 503
    shown = script.get("/dicom-events/status")
    assert (shown["State"], shown["Totals"]) == ("running", {"waiting": 0, "published": 0, "dead": 0})
    script.change("ORTHANC_STOPPED")
    script.module._service._pipeline.close()  # of a process that goes on


def test_dicom_events_waits_while_another_process_has_the_outbox(
    start: Callable[..., Script],
    source: Callable[[str], Any],
    rest: FakeOrthanc,
    orthanc_standin: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = source("dicom_events.pipeline")
    busy = [True]
    plain = module.Pipeline

    def pipeline(*arguments: Any) -> Any:
        if busy[0]:
            raise source("common.state").StateBusyError("another process uses it")
        return plain(*arguments)

    monkeypatch.setattr(source("dicom_events.opening"), "Pipeline", pipeline)
    service = source("dicom_events.service").Service()
    assert service.condition().state == "idle"
    orthanc_standin.configuration = {"StorageDirectory": "db", "DicomEvents": {"Broker": {"Type": "log"}}}
    service._open()
    found = service.condition()
    assert (found.state, found.is_healthy) == ("waiting", False)
    assert found.reason == "dicom_events is idle until this is over: another process uses it"
    busy[0] = False
    eventually(lambda: service.condition().state == "running")
    assert service.condition().last_error[0] == found.reason
    service._pipeline.close()
