# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events with real brokers: RabbitMQ and NATS from Debian, moto's SNS and SQS, librdkafka's mock cluster, a webhook."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]
import pytest
from cloudevents.core.bindings import amqp
from cloudevents.core.formats.json import JSONFormat

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.brokers import RabbitServer, wait_until
from tests.test_dicom_events import NEVER_STABLE, SCRIPT, check, of_type

KINDS = ["dicom.instance.stored"] * 3 + [f"dicom.{level}.stable" for level in ("series", "study", "patient")]


def brokers_of(server: OrthancServer) -> dict[str, Any]:
    return dict(server.get("/dicom-events/status")["Brokers"])


def wait_for_empty(server: OrthancServer, timeout: float = 60) -> dict[str, Any]:
    """Until each broker has all; their statuses."""

    def empty() -> dict[str, Any]:
        found = brokers_of(server)
        return found if not any(each["Backlog"] for each in found.values()) else {}

    return dict(server.wait_until(empty, timeout, "nothing waits any more"))


def same(event: Any, structured: dict[str, Any]) -> bool:
    """Whether a CloudEvent that was read is the one in this structured form (which writes milliseconds)."""
    found = json.loads(JSONFormat().write(event))
    times = {datetime.fromisoformat(each["time"]) for each in (found, structured)}
    return len(times) == 1 and {**found, "time": 0} == {**structured, "time": 0}


# -- RabbitMQ -------------------------------------------------------------------------------------------------------


class RabbitConsumer:
    """A queue of its own, bound to an exchange; what it got, in order."""

    def __init__(self, server: RabbitServer, exchange: str, key: str = "#", declare: bool = True) -> None:
        self._server, self.queue = server, f"queue-{exchange}"
        self.messages: list[tuple[Any, Any, bytes]] = []
        with self._channel() as channel:
            if declare:
                channel.exchange_declare(exchange, "topic", durable=True)
            channel.queue_declare(self.queue, durable=True)
            channel.queue_bind(self.queue, exchange, key)

    def _channel(self) -> Any:
        channel = pika.BlockingConnection(pika.URLParameters(self._server.url)).channel()
        return _Closing(channel)

    def read(self, number: int = 0, timeout: float = 30) -> list[dict[str, Any]]:
        """Take until there are so many different ones in all; bodies, decoded, each the first time it came."""
        deadline = time.monotonic() + timeout
        with self._channel() as channel:
            while True:
                method, properties, body = channel.basic_get(self.queue, auto_ack=True)
                if method is not None:
                    self.messages.append((method, properties, body))
                elif len(found := self._different()) >= number:
                    return found
                elif time.monotonic() > deadline:
                    raise TimeoutError(f"{len(self.messages)} messages, not {number}")
                else:
                    time.sleep(0.02)

    def _different(self) -> list[dict[str, Any]]:
        found: dict[str, bytes] = {}
        for _, properties, body in self.messages:
            found.setdefault(properties.message_id, body)
        return [json.loads(body) for body in found.values()]


class _Closing:
    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def __enter__(self) -> Any:
        return self._channel

    def __exit__(self, *_: object) -> None:
        self._channel.connection.close()


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    server = RabbitServer(tmp_path_factory.mktemp("rabbit") / "server")
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def own_rabbit(tmp_path: Path) -> Iterator[RabbitServer]:
    """One to stop, to hang and to block."""
    server = RabbitServer(tmp_path / "rabbit")
    try:
        yield server.start()
    finally:
        server.close()


def over_rabbit(server: RabbitServer, exchange: str, **more: Any) -> dict[str, Any]:
    config = {"URL": server.url, "Exchange": exchange, **more.pop("RabbitConfig", {})}
    return {"Type": "rabbitmq", "RabbitConfig": config, **more}


def test_rabbitmq_gets_persistent_messages_with_the_type_as_key_in_each_form(
    start_orthanc: StartOrthanc, rabbit: RabbitServer
) -> None:
    forms = ("structured", "binary", "plain")
    consumers = {form: RabbitConsumer(rabbit, form) for form in forms}
    only_studies = RabbitConsumer(rabbit, "structured", "dicom.study.*")
    del only_studies
    brokers = {form: over_rabbit(rabbit, form, Format=form) for form in forms}
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Brokers": brokers}})
    server.store(make_study(instances=3))
    for form, consumer in consumers.items():
        consumer.read(6)
        for method, properties, _ in consumer.messages:
            assert properties.delivery_mode == 2
            assert method.routing_key == properties.type
            expected = {"structured": "application/cloudevents+json"}.get(form, "application/json")
            assert properties.content_type == expected
        assert sorted(method.routing_key for method, _, _ in consumer.messages) == sorted(KINDS)
    structured = [json.loads(body) for _, _, body in consumers["structured"].messages]
    for event in structured:
        check(event)
    by_id = {event["id"]: event for event in structured}
    for _, properties, body in consumers["binary"].messages:
        message = amqp.AMQPMessage({"content-type": properties.content_type}, properties.headers, body)
        assert same(amqp.from_amqp_event(message), by_id[properties.message_id])
    for event in (json.loads(body) for _, _, body in consumers["plain"].messages):
        assert (event["identity"], event["ID"]) == (
            by_id[event["eventID"]]["type"],
            by_id[event["eventID"]]["data"]["id"],
        )
    assert {name: each["Published"] for name, each in wait_for_empty(server).items()} == dict.fromkeys(forms, 6)


def test_what_no_queue_takes_is_counted_and_said_once(start_orthanc: StartOrthanc, rabbit: RabbitServer) -> None:
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": over_rabbit(rabbit, "nobody")}, **NEVER_STABLE})
    server.store(make_study(instances=3))
    assert wait_for_empty(server)["rabbitmq"]["Returned"] == 3
    assert server.log.count("nobody has a queue for dicom.instance.stored") == 1


def test_a_passive_exchange_that_is_not_there_is_waited_for(start_orthanc: StartOrthanc, rabbit: RabbitServer) -> None:
    broker = over_rabbit(rabbit, "later", RabbitConfig={"Passive": True})
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": broker}, **NEVER_STABLE})
    server.store(make_study(instances=3))
    assert "later" in server.wait_for_log("broker rabbitmq is away")
    consumer = RabbitConsumer(rabbit, "later")
    assert len(consumer.read(3)) == 3


def test_a_wrong_password_is_never_shown_and_nothing_is_lost(start_orthanc: StartOrthanc, rabbit: RabbitServer) -> None:
    wrong = {"Type": "rabbitmq", "RabbitConfig": {"URL": f"amqp://guest:pa55%40word@127.0.0.1:{rabbit.port}/"}}
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": wrong}, **NEVER_STABLE}, verbose=True)
    server.store(make_study(instances=3))
    server.wait_for_log("broker rabbitmq is away")
    status = brokers_of(server)["rabbitmq"]
    assert (status["State"], status["Backlog"]) == ("away", 3)
    assert "pa55" not in server.log + json.dumps(status)


def test_several_hosts_are_asked_in_turn(start_orthanc: StartOrthanc, rabbit: RabbitServer) -> None:
    consumer = RabbitConsumer(rabbit, "turn")
    broker = over_rabbit(rabbit, "turn", RabbitConfig={"URL": "amqp://127.0.0.1:1/", "MoreURLs": [rabbit.url]})
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": broker}, **NEVER_STABLE})
    server.store(make_study(instances=3))
    assert len(consumer.read(3)) == 3


def test_a_message_that_rabbitmq_refuses_goes_to_the_dead_letters_and_holds_up_no_other(
    start_orthanc: StartOrthanc, own_rabbit: RabbitServer, tmp_path: Path
) -> None:
    """RabbitMQ closes the channel for a message that is too large, with all that is under way."""
    own_rabbit.control("eval", "application:set_env(rabbit, max_message_size, 2000).")
    consumer = RabbitConsumer(own_rabbit, "small")
    (tmp_path / "dicom_events").symlink_to(SCRIPT.parent)
    script = tmp_path / "own.py"
    script.write_text(
        "import dicom_events, orthanc\n"
        "def send(output, uri, **request):\n"
        "    for n in range(10):\n"
        "        dicom_events.publish('org.test', 'x' * (5000 if n == 4 else n), f'things/{n % 2}')\n"
        "    output.AnswerBuffer('ok', 'text/plain')\n"
        "orthanc.RegisterRestCallback('/send', send)\n"
    )
    server = start_orthanc(script, {"DicomEvents": {"Broker": over_rabbit(own_rabbit, "small")}, **NEVER_STABLE})
    server.get("/send")
    found = consumer.read(9)
    for thing in (0, 1):
        mine = [len(event["data"]) for event in found if event["subject"] == f"things/{thing}"]
        assert mine == [n for n in range(10) if n % 2 == thing and n != 4]
    letters = server.wait_until(lambda: (page := server.get("/dicom-events/dead-letters"))["Total"] and page)
    assert [each["Subject"] for each in letters["Items"]] == ["things/0"]
    assert "PRECONDITION_FAILED" in letters["Items"][0]["Error"]
    letter = f"/dicom-events/dead-letters/{letters['Items'][0]['ID']}"
    assert server.get(letter)["Data"] == "x" * 5000
    # When the server takes it, a person sends it again.
    own_rabbit.control("eval", "application:set_env(rabbit, max_message_size, 200000).")
    own_rabbit.stop()
    own_rabbit.start()
    server.wait_for_log("is back after", 60)
    server.post(f"{letter}/retry")
    assert len(consumer.read(10)) == 10
    assert server.wait_until(lambda: server.get("/dicom-events/dead-letters")["Total"] == 0)


def test_a_server_that_is_stopped_started_and_blocked_gets_all_in_order(
    start_orthanc: StartOrthanc, own_rabbit: RabbitServer
) -> None:
    consumer = RabbitConsumer(own_rabbit, "orthanc")
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": over_rabbit(own_rabbit, "orthanc")}, **NEVER_STABLE})
    server.store(make_study(series=2, instances=5, seed=1))
    wait_for_empty(server)
    own_rabbit.stop()
    server.store(make_study(series=2, instances=5, seed=2))
    server.wait_for_log("broker rabbitmq is away")
    own_rabbit.start()
    assert len(consumer.read(20, 60)) == 20
    own_rabbit.control("set_vm_memory_high_watermark", "0")
    server.store(make_study(series=2, instances=5, seed=3))
    server.wait_until(lambda: brokers_of(server)["rabbitmq"].get("Blocked"))
    own_rabbit.control("set_vm_memory_high_watermark", "0.4")
    found = of_type(consumer.read(30), "dicom.instance.stored")
    for series in server.get("/series"):
        mine = [event["data"]["counts"]["instances"] for event in found if event["data"]["orthanc"]["series"] == series]
        assert list(dict.fromkeys(mine)) == [1, 2, 3, 4, 5]


def test_a_broker_that_hangs_delays_the_end_of_orthanc_by_two_seconds_at_most(
    start_orthanc: StartOrthanc, own_rabbit: RabbitServer
) -> None:
    RabbitConsumer(own_rabbit, "orthanc")
    quiet = start_orthanc("import orthanc\n", NEVER_STABLE)
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": over_rabbit(own_rabbit, "orthanc")}, **NEVER_STABLE})
    server.wait_until(lambda: brokers_of(server)["rabbitmq"]["State"] == "connected")
    own_rabbit.pause()
    server.store(make_study(instances=20))
    wait_until(lambda: brokers_of(server)["rabbitmq"]["Backlog"] == 20)
    started = time.monotonic()
    quiet.terminate()
    assert quiet.finish() == 0
    without = time.monotonic() - started
    started = time.monotonic()
    server.terminate()
    assert server.finish() == 0
    assert time.monotonic() - started < without + 2
    own_rabbit.resume()
