# SPDX-License-Identifier: AGPL-3.0-or-later
"""Orthanc killed and RabbitMQ stopped while images arrive: the consumer misses nothing.

The long form, with three kills and three stops: DICOM_EVENTS_IMAGES=10000 before `.venv/bin/python -m pytest` and this file.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.brokers import RabbitServer, wait_until
from tests.dicom_events.brokers.helpers import RabbitConsumer, over_rabbit
from tests.dicom_events.helpers import SCRIPT, check

IMAGES = int(os.environ.get("DICOM_EVENTS_IMAGES", "600"))
ROUNDS = 3 if IMAGES >= 10_000 else 1
SERIES = 20


class Senders:
    """Sends each image until Orthanc says that it has it."""

    def __init__(self, server: OrthancServer, images: list[bytes]) -> None:
        self._server, self._images, self._lock, self.stored = server, iter(images), threading.Lock(), 0
        self._pool = ThreadPoolExecutor(4)
        self._running = [self._pool.submit(self._work) for _ in range(4)]

    def _work(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while True:
                with self._lock:
                    image = next(self._images, None)
                if image is None:
                    return
                while not self._send(session, image):
                    time.sleep(0.05)
                with self._lock:
                    self.stored += 1

    def _send(self, session: requests.Session, image: bytes) -> bool:
        try:
            return session.post(f"{self._server.url}/instances", image, timeout=30).ok
        except requests.RequestException:
            return False

    def wait_for(self, number: int) -> None:
        wait_until(lambda: self.stored >= number, 600, f"{number} images")

    def finish(self) -> None:
        for each in self._running:
            each.result()
        self._pool.shutdown()


@pytest.mark.timeout(180 * ROUNDS)
def test_no_event_is_missing_when_orthanc_is_killed_and_the_broker_stopped(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    rabbit = RabbitServer(tmp_path / "rabbit").start()
    try:
        consumer = RabbitConsumer(rabbit, "orthanc")
        broker = over_rabbit(rabbit, "orthanc")
        server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": broker}, "StableAge": 2})
        studies = [make_study(patient_id=f"P{n}", instances=IMAGES // SERIES, rows=8, columns=8) for n in range(SERIES)]
        senders = Senders(server, [image for together in zip(*studies, strict=True) for image in together])
        steps = 2 * ROUNDS + 1
        for each in range(ROUNDS):
            senders.wait_for(IMAGES * (2 * each + 1) // steps)
            server.kill()
            server.start()
            senders.wait_for(IMAGES * (2 * each + 2) // steps)
            rabbit.stop()
            time.sleep(0.5)
            rabbit.start()
        senders.finish()
        archive = {each["ID"]: each for each in server.get("/instances?expand")}
        assert len(archive) == IMAGES // SERIES * SERIES
        found = collect(server, consumer, set(archive))
        compare(found, server, archive)
    finally:
        rabbit.close()


def collect(server: OrthancServer, consumer: RabbitConsumer, instances: set[str]) -> list[dict[str, Any]]:
    """All different events, once each image and each patient has its own, and of each series the last is that it is stable.

    An image whose callback was killed is told after its series was stable; then the series is told once more.
    """
    patients = set(server.get("/patients"))

    def complete() -> list[dict[str, Any]]:
        found = consumer.read()
        stored = {event["data"]["id"] for event in found if event["type"] == "dicom.instance.stored"}
        stable = {event["data"]["id"] for event in found if event["type"] == "dicom.patient.stable"}
        last = {event["data"]["orthanc"].get("series"): event["type"] for event in found}
        settled = {kind for series, kind in last.items() if series} == {"dicom.series.stable"}
        waits = server.get("/dicom-events/status")["Brokers"]["broker"]["Backlog"]
        return found if instances <= stored and patients <= stable and settled and not waits else []

    return list(wait_until(complete, 120, "an event for each image and each patient"))


def compare(found: list[dict[str, Any]], server: OrthancServer, archive: dict[str, Any]) -> None:
    for event in found:
        check(event)
    for series in server.get("/series?expand"):
        mine = [event for event in found if event["data"]["orthanc"].get("series") == series["ID"]]
        stored = [event for event in mine if event["type"] == "dicom.instance.stored"]
        assert {event["data"]["id"] for event in stored} == set(series["Instances"]) <= archive.keys()
        counts = [event["data"]["counts"]["instances"] for event in stored]
        assert counts == sorted(counts)
        # The last word is that it is stable, with all of its images.
        assert mine[-1]["type"] == "dicom.series.stable"
        assert mine[-1]["data"]["counts"]["instances"] == len(series["Instances"])
    for level in ("study", "patient"):
        stable = {event["data"]["id"] for event in found if event["type"] == f"dicom.{level}.stable"}
        assert stable == set(server.get("/studies" if level == "study" else "/patients"))
