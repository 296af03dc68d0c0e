# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events with NATS JetStream, from Debian."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import nats.js.api
import pytest
from cloudevents.core.bindings import http as http_binding

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.brokers import NatsServer
from tests.dicom_events.brokers.helpers import KINDS, brokers_of, same, wait_for_empty
from tests.dicom_events.helpers import NEVER_STABLE, SCRIPT, check


def wait_for_published(server: OrthancServer, number: int) -> None:
    """Until each broker has confirmed so many."""
    server.wait_until(lambda: {each["Published"] for each in brokers_of(server).values()} == {number})


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    try:
        yield server.start()
    finally:
        server.close()


def read_stream(server: NatsServer, stream: str, number: int) -> list[Any]:
    """The first messages of a stream, in order."""

    async def read() -> list[Any]:
        connection = await nats.connect(server.url)
        try:
            context = connection.jetstream()
            consumer = await context.pull_subscribe(
                "", stream=stream, config=nats.js.api.ConsumerConfig(ack_policy=nats.js.api.AckPolicy.NONE)
            )
            found: list[Any] = []
            while len(found) < number:
                found += await consumer.fetch(number - len(found), timeout=30)
            return found
        finally:
            await connection.close()

    return asyncio.run(read())


def test_a_nats_stream_is_made_and_gets_each_event_once_under_its_type(
    start_orthanc: StartOrthanc, nats_server: NatsServer
) -> None:
    over = {"Type": "nats", "NatsConfig": {"URL": nats_server.url}}
    other = {
        "Type": "nats",
        "Format": "binary",
        "NatsConfig": {"URL": nats_server.url, "Stream": "BINARY", "Prefix": "b."},
    }
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": over, "Brokers": {"binary": other}}})
    server.store(make_study(instances=3))
    wait_for_published(server, 6)
    messages = read_stream(nats_server, "ORTHANC", 6)
    assert sorted(message.subject for message in messages) == sorted(f"orthanc.{kind}" for kind in KINDS)
    structured = {}
    for message in messages:
        event = json.loads(message.data)
        check(event)
        assert message.headers["Nats-Msg-Id"] == event["id"]
        structured[event["id"]] = event
    for message in read_stream(nats_server, "BINARY", 6):
        found = http_binding.from_http_event(http_binding.HTTPMessage(message.headers, message.data))
        assert same(found, structured[message.headers["Nats-Msg-Id"]])
    # Told again at once, the stream knows them by their identifiers.
    server.post("/dicom-events/replay", {"Study": server.get("/studies")[0]})
    server.wait_until(lambda: brokers_of(server)["broker"]["Published"] == 12)
    stored = [message for message in read_stream(nats_server, "ORTHANC", 9) if message.subject.endswith("stored")]
    assert len(stored) == 3


def test_a_nats_server_that_is_stopped_and_started_gets_all_in_order(
    start_orthanc: StartOrthanc, nats_server: NatsServer
) -> None:
    over = {"Type": "nats", "NatsConfig": {"URL": "nats://127.0.0.1:1", "MoreURLs": [nats_server.url]}}
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": over}, **NEVER_STABLE})
    server.store(make_study(instances=5))
    wait_for_empty(server)
    nats_server.stop()
    server.store(make_study(instances=5, seed=1))
    server.wait_for_log("broker broker is away")
    nats_server.start()
    wait_for_empty(server)
    found = [json.loads(message.data) for message in read_stream(nats_server, "ORTHANC", 10)]
    for series in server.get("/series"):
        mine = [event["data"]["counts"]["instances"] for event in found if event["data"]["orthanc"]["series"] == series]
        assert mine == [1, 2, 3, 4, 5]


def test_a_passive_stream_and_one_that_takes_other_subjects_are_waited_for(
    start_orthanc: StartOrthanc, nats_server: NatsServer
) -> None:
    async def make(name: str, subject: str) -> None:
        connection = await nats.connect(nats_server.url)
        await connection.jetstream().add_stream(name=name, subjects=[subject])
        await connection.close()

    asyncio.run(make("OTHER", "other.>"))
    brokers = {
        "passive": {"Type": "nats", "NatsConfig": {"URL": nats_server.url, "Stream": "LATER", "Passive": True}},
        "other": {"Type": "nats", "NatsConfig": {"URL": nats_server.url, "Stream": "OTHER"}},
    }
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Brokers": brokers}, **NEVER_STABLE})
    server.store(make_study(instances=2))
    server.wait_for_log("there is no stream LATER")
    server.wait_for_log("the stream OTHER does not take orthanc.>")
    asyncio.run(make("LATER", "orthanc.>"))
    server.wait_until(lambda: brokers_of(server)["passive"]["Published"] == 2)
    assert len(read_stream(nats_server, "LATER", 2)) == 2


def test_nats_over_tls_is_verified_and_a_password_is_decoded(
    start_orthanc: StartOrthanc, tmp_path: Path, certificate: Path
) -> None:
    options = (
        "--user",
        "me",
        "--pass",
        "p@ss/word",
        "--tls",
        "--tlscert",
        str(certificate),
        "--tlskey",
        str(certificate),
    )
    nats_server = NatsServer(tmp_path / "nats", *options).start()
    try:
        url = f"tls://me:p%40ss%2Fword@127.0.0.1:{nats_server.port}"
        brokers = {
            "right": {"Type": "nats", "NatsConfig": {"URL": url, "CACertificate": str(certificate)}},
            "wrong": {
                "Type": "nats",
                "NatsConfig": {"URL": url.replace("word", "w0rd"), "CACertificate": str(certificate)},
            },
            "distrusting": {"Type": "nats", "NatsConfig": {"URL": url}},
        }
        server = start_orthanc(SCRIPT, {"DicomEvents": {"Brokers": brokers}, **NEVER_STABLE}, verbose=True)
        server.store(make_study(instances=3))
        server.wait_until(lambda: brokers_of(server)["right"]["Published"] == 3)
        server.wait_for_log("broker wrong is away")
        server.wait_for_log("broker distrusting is away")
        status = brokers_of(server)
        assert "certificate verify failed" in status["distrusting"]["LastError"]
        assert "Authorization" in status["wrong"]["LastError"]
        for password in ("p@ss", "p%40ss"):
            assert password not in server.log + json.dumps(status)
    finally:
        nats_server.close()
