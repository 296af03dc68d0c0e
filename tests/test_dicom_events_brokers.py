# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events with real brokers: RabbitMQ and NATS from Debian, moto's SNS and SQS, librdkafka's mock cluster, a webhook."""

from __future__ import annotations

import asyncio
import base64
import hmac
import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import confluent_kafka
import nats
import nats.js.api
import pika  # type: ignore[import-untyped]
import pytest
from cloudevents.core.bindings import amqp
from cloudevents.core.bindings import http as http_binding
from cloudevents.core.bindings import kafka as kafka_binding
from cloudevents.core.formats.json import JSONFormat
from moto.server import ThreadedMotoServer

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer, site_packages
from tests.brokers import NatsServer, RabbitServer, wait_until
from tests.constants import script_with
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


def wait_for_published(server: OrthancServer, number: int) -> None:
    """Until each broker has confirmed so many."""
    server.wait_until(lambda: {each["Published"] for each in brokers_of(server).values()} == {number})


def same(event: Any, structured: dict[str, Any]) -> bool:
    """Whether a CloudEvent that was read is the one in this structured form (which writes milliseconds)."""
    found = json.loads(JSONFormat().write(event))
    times = {datetime.fromisoformat(each["time"]) for each in (found, structured)}
    return len(times) == 1 and {**found, "time": 0} == {**structured, "time": 0}


# -- RabbitMQ -------------------------------------------------------------------------------------------------------


class RabbitConsumer:
    """A queue of its own, bound to an exchange; what it got, in order."""

    def __init__(self, server: RabbitServer, exchange: str, key: str = "#", declare_queue: bool = True) -> None:
        self._server, self.queue = server, f"queue-{exchange}"
        self.messages: list[tuple[Any, Any, bytes]] = []
        with self._channel() as channel:
            channel.exchange_declare(exchange, "topic", durable=True)
            if declare_queue:
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
    assert wait_for_empty(server)["broker"]["Returned"] == 3
    assert server.log.count("nobody has a queue for dicom.instance.stored") == 1


def test_a_passive_exchange_that_is_not_there_is_waited_for(start_orthanc: StartOrthanc, rabbit: RabbitServer) -> None:
    broker = over_rabbit(rabbit, "later", RabbitConfig={"Passive": True})
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": broker}, **NEVER_STABLE})
    server.store(make_study(instances=3))
    assert "later" in server.wait_for_log("broker broker is away")
    consumer = RabbitConsumer(rabbit, "later")
    assert len(consumer.read(3)) == 3


def test_a_wrong_password_is_never_shown_and_nothing_is_lost(start_orthanc: StartOrthanc, rabbit: RabbitServer) -> None:
    wrong = {"Type": "rabbitmq", "RabbitConfig": {"URL": f"amqp://guest:pa55%40word@127.0.0.1:{rabbit.port}/"}}
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": wrong}, **NEVER_STABLE}, verbose=True)
    server.store(make_study(instances=3))
    server.wait_for_log("broker broker is away")
    status = brokers_of(server)["broker"]
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
    server.wait_for_log("broker broker is away")
    own_rabbit.start()
    assert len(consumer.read(20, 60)) == 20
    own_rabbit.control("set_vm_memory_high_watermark", "0")
    server.store(make_study(series=2, instances=5, seed=3))
    server.wait_until(lambda: brokers_of(server)["broker"].get("Blocked"))
    own_rabbit.control("set_vm_memory_high_watermark", "0.4")
    found = of_type(consumer.read(30), "dicom.instance.stored")
    for series in server.get("/series"):
        mine = [event["data"]["counts"]["instances"] for event in found if event["data"]["orthanc"]["series"] == series]
        assert list(dict.fromkeys(mine)) == [1, 2, 3, 4, 5]


def seconds_to_end(server: OrthancServer) -> float:
    """How long Orthanc takes from SIGTERM to its end."""
    started = time.monotonic()
    server.terminate()
    assert server.finish() == 0
    return time.monotonic() - started


def test_a_broker_that_hangs_delays_the_end_of_orthanc_by_four_seconds_at_most(
    start_orthanc: StartOrthanc, own_rabbit: RabbitServer
) -> None:
    RabbitConsumer(own_rabbit, "orthanc")
    quiet = start_orthanc("import orthanc\n", NEVER_STABLE)
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": over_rabbit(own_rabbit, "orthanc")}, **NEVER_STABLE})
    server.wait_until(lambda: brokers_of(server)["broker"]["State"] == "connected")
    own_rabbit.pause()
    server.store(make_study(instances=20))
    wait_until(lambda: brokers_of(server)["broker"]["Backlog"] == 20)
    without = seconds_to_end(quiet)
    assert seconds_to_end(server) < without + 4
    own_rabbit.resume()


def test_rabbitmq_over_tls_is_verified_and_a_client_certificate_shown(
    start_orthanc: StartOrthanc, tmp_path: Path, certificate: Path
) -> None:
    ours = tmp_path / "ours.pem"  # signed by the server's
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=orthanc",
        "-keyout",
        "-",
        "-CA",
    ]
    made = subprocess.run([*command, certificate, "-CAkey", certificate], check=True, capture_output=True, text=True)
    ours.write_text(made.stdout)
    rabbit = RabbitServer(tmp_path / "rabbit", certificate).start()
    try:
        consumer = RabbitConsumer(rabbit, "tls")
        url = f"amqps://guest:guest@127.0.0.1:{rabbit.tls_port}/"
        trusting = {"URL": url, "CACertificate": str(certificate)}
        brokers = {
            "right": over_rabbit(rabbit, "tls", RabbitConfig={**trusting, "Certificate": str(ours)}),
            "anonymous": over_rabbit(rabbit, "tls", RabbitConfig=trusting),
            "distrusting": over_rabbit(rabbit, "tls", RabbitConfig={"URL": url, "Certificate": str(ours)}),
            "missing": over_rabbit(rabbit, "tls", RabbitConfig={"URL": url, "CACertificate": str(tmp_path / "none")}),
        }
        server = start_orthanc(SCRIPT, {"DicomEvents": {"Brokers": brokers}, **NEVER_STABLE})
        server.store(make_study(instances=3))
        assert len(consumer.read(3)) == 3
        server.wait_for_log("broker anonymous is away")
        assert "certificate verify failed" in server.wait_for_log("broker distrusting is away")
        server.wait_for_log(
            "broker missing is off: RabbitConfig.URL, CACertificate, Certificate or CertificateKey can't be used"
        )
        found = brokers_of(server)
        assert [found[name]["Published"] for name in ("right", "anonymous", "distrusting")] == [3, 0, 0]
    finally:
        rabbit.close()


def test_a_rabbitmq_that_hangs_is_noticed_by_its_heartbeat_and_gets_all_when_it_goes_on(
    start_orthanc: StartOrthanc, own_rabbit: RabbitServer
) -> None:
    consumer = RabbitConsumer(own_rabbit, "orthanc")
    script = script_with(SCRIPT, {"HEARTBEAT_SECONDS": 1})
    server = start_orthanc(script, {"DicomEvents": {"Broker": over_rabbit(own_rabbit, "orthanc")}, **NEVER_STABLE})
    server.wait_until(lambda: brokers_of(server)["broker"]["State"] == "connected")
    own_rabbit.pause()
    server.store(make_study(instances=5))
    server.wait_for_log("broker broker is away")
    own_rabbit.resume()
    assert [event["data"]["counts"]["instances"] for event in consumer.read(5)] == [1, 2, 3, 4, 5]


def test_what_a_full_queue_refuses_is_tried_again_and_then_a_dead_letter(
    start_orthanc: StartOrthanc, rabbit: RabbitServer
) -> None:
    """RabbitMQ answers basic.nack, as the queue takes three messages and refuses more."""
    with pika.BlockingConnection(pika.URLParameters(rabbit.url)) as connection:
        limits = {"x-max-length": 3, "x-overflow": "reject-publish"}
        connection.channel().queue_declare("queue-full", durable=True, arguments=limits)
    consumer = RabbitConsumer(rabbit, "full", declare_queue=False)
    script = script_with(SCRIPT, {"TRIES_OF_REFUSED": 2})
    server = start_orthanc(script, {"DicomEvents": {"Broker": over_rabbit(rabbit, "full")}, **NEVER_STABLE})
    server.store(make_study(instances=5))
    letters = server.wait_until(lambda: (page := server.get("/dicom-events/dead-letters"))["Total"] == 2 and page)
    assert [(each["Attempts"], each["Error"]) for each in letters["Items"]] == [
        (2, "RabbitMQ could not keep it (basic.nack)")
    ] * 2
    assert len(consumer.read(3)) == 3
    assert server.post("/dicom-events/dead-letters/retry", {}) == {"Retried": 2}
    assert [event["data"]["counts"]["instances"] for event in consumer.read(5)] == [1, 2, 3, 4, 5]


def test_what_waits_too_long_is_dropped_and_counted(start_orthanc: StartOrthanc) -> None:
    settings = {"Broker": {"Type": "rabbitmq", "RabbitConfig": {"URL": "amqp://127.0.0.1:1/"}}}
    server = start_orthanc(SCRIPT, {"DicomEvents": {**settings, "Outbox": {"MaxAgeDays": 1e-6}}, **NEVER_STABLE})
    server.store(make_study(instances=3))
    server.wait_until(lambda: server.get("/dicom-events/status")["Outbox"]["Dropped"] == 3)
    assert brokers_of(server)["broker"]["OldestSeconds"] is None
    assert "events were dropped unpublished" in server.wait_for_log("the outbox is beyond its bounds")


# -- NATS -----------------------------------------------------------------------------------------------------------


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


# -- webhook --------------------------------------------------------------------------------------------------------


class Hook(http.server.ThreadingHTTPServer):
    """Takes what is posted; `answers` gives the status for a body, 200 if it says nothing."""

    daemon_threads = True

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), HookHandler)
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.asked: list[str] = []
        self.answers: Callable[[dict[str, Any]], int] = lambda _event: 200
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.server_address[1]}/hook?x=1"
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.taken]


class HookHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        status = self.server.answers(json.loads(body))
        if status == 200:
            self.server.taken.append((dict(self.headers), body))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    yield server
    server.shutdown()
    server.server_close()


def over_webhook(hook: Hook, **more: Any) -> dict[str, Any]:
    config = {"URL": hook.url, **more.pop("WebhookConfig", {})}
    return {"Type": "webhook", "WebhookConfig": config, **more}


def test_a_webhook_gets_signed_posts_in_order_in_both_forms(start_orthanc: StartOrthanc, hook: Hook) -> None:
    config = {"Secret": "s3cret", "Headers": {"Authorization": "Bearer t0ken"}}
    other = Hook()
    brokers = {"b": over_webhook(other, Format="binary")}
    broker = over_webhook(hook, WebhookConfig=config)
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": broker, "Brokers": brokers}}, verbose=True)
    server.store(make_study(series=3, instances=5))
    wait_until(lambda: len(hook.taken) == len(other.taken) == 15 + 3 + 2)
    for headers, body in hook.taken:
        expected = hmac.new(b"s3cret", headers["X-DicomEvents-Timestamp"].encode() + b"." + body, "sha256").hexdigest()
        assert headers["X-DicomEvents-Signature"] == f"sha256={expected}"
        assert (headers["Content-Type"], headers["Authorization"]) == ("application/cloudevents+json", "Bearer t0ken")
        check(json.loads(body))
    assert set(hook.asked) == {"/hook?x=1"}
    structured = {event["id"]: event for event in hook.events()}
    for headers, body in other.taken:
        lower = {name.lower(): value for name, value in headers.items()}
        found = http_binding.from_http_event(http_binding.HTTPMessage(lower, body))
        assert same(found, structured[lower["ce-id"]])
    for series in server.get("/series"):
        mine = [event["data"]["counts"]["instances"] for event in of_type(hook.events(), "dicom.instance.stored")
                if event["data"]["orthanc"]["series"] == series]  # fmt: skip
        assert mine == [1, 2, 3, 4, 5]
    assert "s3cret" not in server.log
    assert "t0ken" not in server.log
    other.shutdown()
    other.server_close()


def test_a_webhook_over_tls_is_verified_and_gets_the_user_of_its_url(
    start_orthanc: StartOrthanc, certificate: Path
) -> None:
    secure = Hook(certificate)
    url = secure.url.replace("://", "://me:p%40ss@")
    brokers = {
        "right": over_webhook(secure, WebhookConfig={"URL": url, "CACertificate": str(certificate)}),
        "distrusting": over_webhook(secure, WebhookConfig={"URL": url}),
    }
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Brokers": brokers}, **NEVER_STABLE})
    server.store(make_study(instances=3))
    wait_until(lambda: len(secure.taken) == 3)
    assert {headers["Authorization"] for headers, _ in secure.taken} == {
        f"Basic {base64.b64encode(b'me:p@ss').decode()}"
    }
    assert "certificate verify failed" in server.wait_for_log("broker distrusting is away")
    assert brokers_of(server)["distrusting"]["Published"] == 0
    secure.shutdown()
    secure.server_close()


def test_what_a_webhook_refuses_for_good_is_dead_and_what_fails_is_tried_again(
    start_orthanc: StartOrthanc, hook: Hook
) -> None:
    failures: dict[str, int] = {}

    def answer(event: dict[str, Any]) -> int:
        patient, count = event["data"]["dicom"]["PatientID"], event["data"]["counts"]["instances"]
        failures[patient] = failures.get(patient, 0) + (count == 2)
        if patient == "POISON" and count == 2:
            return 422
        return 500 if patient == "SHAKY" and count == 2 and failures[patient] < 3 else 200

    hook.answers = answer
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": over_webhook(hook)}, **NEVER_STABLE})
    for patient in ("POISON", "SHAKY", "GOOD"):
        server.store(make_study(patient_id=patient, instances=4))
    wait_until(lambda: len(hook.taken) == 3 + 4 + 4)
    for patient in ("POISON", "SHAKY", "GOOD"):
        mine = [
            event["data"]["counts"]["instances"]
            for event in hook.events()
            if event["data"]["dicom"]["PatientID"] == patient
        ]
        assert mine == ([1, 3, 4] if patient == "POISON" else [1, 2, 3, 4])
    # Nobody waited for the one that shook.
    assert hook.events()[-1]["data"]["dicom"]["PatientID"] == "SHAKY"
    page = server.get("/dicom-events/dead-letters", broker="broker")
    assert [(page["Total"], page["Next"], each["Error"], each["Attempts"]) for each in page["Items"]] == [
        (1, None, "HTTP 422 Unprocessable Entity", 1)
    ]
    hook.answers = lambda _event: 200
    assert server.post("/dicom-events/dead-letters/retry", {"Broker": "broker"}) == {"Retried": 1}
    wait_until(lambda: len(hook.taken) == 12)
    assert server.wait_until(lambda: server.get("/dicom-events/dead-letters")["Total"] == 0)


def test_what_fails_too_often_is_dead_and_can_be_dropped(start_orthanc: StartOrthanc, hook: Hook) -> None:
    hook.answers = lambda event: 500 if event["data"]["counts"]["instances"] == 1 else 200
    script = script_with(SCRIPT, {"TRIES_OF_REFUSED": 2})
    server = start_orthanc(script, {"DicomEvents": {"Broker": over_webhook(hook)}, **NEVER_STABLE})
    server.store(make_study(instances=3))
    wait_until(lambda: len(hook.taken) == 2)
    letter = server.get("/dicom-events/dead-letters")["Items"][0]
    assert letter["Attempts"] == 2
    assert server.delete(f"/dicom-events/dead-letters/{letter['ID']}")["ID"] == letter["ID"]
    assert server.get("/dicom-events/dead-letters") == {"Total": 0, "Items": [], "Next": None}


@pytest.mark.parametrize("status", [302, 401, 503])
def test_a_webhook_that_redirects_refuses_us_or_is_down_is_waited_for(
    start_orthanc: StartOrthanc, hook: Hook, status: int
) -> None:
    hook.answers = lambda _event: status
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": over_webhook(hook)}, **NEVER_STABLE})
    server.store(make_study(instances=3))
    server.wait_for_log(f"broker broker is away, what happens meanwhile is kept: HTTP {status}")
    hook.answers = lambda _event: 200
    wait_until(lambda: len(hook.taken) == 3)
    assert set(hook.asked) == {"/hook?x=1"}
    assert server.get("/dicom-events/dead-letters")["Total"] == 0


def test_a_webhook_that_never_answers_delays_the_end_of_orthanc_by_four_seconds_at_most(
    start_orthanc: StartOrthanc, hook: Hook
) -> None:
    hang = threading.Event()
    hook.answers = lambda _event: 200 if hang.wait(60) else 500
    quiet = start_orthanc("import orthanc\n", NEVER_STABLE)
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": over_webhook(hook)}, **NEVER_STABLE})
    server.store(make_study(instances=3))
    wait_until(lambda: hook.asked)
    without = seconds_to_end(quiet)
    assert seconds_to_end(server) < without + 4
    hang.set()


# -- SNS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    """moto's server, as a process would see AWS."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


AWS_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}


def aws_client(name: str, endpoint: str) -> Any:
    return boto3.session.Session("AKIDEXAMPLE", "wJalrXUtnFEMI", region_name="eu-west-1").client(
        name, endpoint_url=endpoint
    )


class Subscription:
    """A topic, and a queue behind it."""

    def __init__(self, endpoint: str, name: str, policy: dict[str, Any] | None = None) -> None:
        fifo = {"FifoTopic": "true"} if name.endswith(".fifo") else {}
        self.arn = aws_client("sns", endpoint).create_topic(Name=name, Attributes=fifo)["TopicArn"]
        self._sqs = aws_client("sqs", endpoint)
        self.url = self._sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true"} if fifo else {})["QueueUrl"]
        queue = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        aws_client("sns", endpoint).subscribe(
            TopicArn=self.arn,
            Protocol="sqs",
            Endpoint=queue,
            Attributes={"RawMessageDelivery": "true", **({"FilterPolicy": json.dumps(policy)} if policy else {})},
        )

    def read(self, number: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []

        def enough() -> bool:
            answer = self._sqs.receive_message(
                QueueUrl=self.url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"]
            )
            for message in answer.get("Messages", []):
                self._sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
                found.append(message)
            return len(found) >= number

        wait_until(enough, what=f"{number} messages")
        return found


def over_sns(endpoint: str, subscription: Subscription, **more: Any) -> dict[str, Any]:
    return {"Type": "sqs-sns", "SNSConfig": {"TopicArn": subscription.arn, "EndpointURL": endpoint}, **more}


def test_sns_gets_batches_with_attributes_to_filter_on_in_each_form(start_orthanc: StartOrthanc, aws: str) -> None:
    topics = {form: Subscription(aws, form) for form in ("structured", "binary", "plain")}
    stable = Subscription(aws, "filtered", {"type": ["dicom.series.stable"]})
    brokers = {form: over_sns(aws, topic, Format=form) for form, topic in topics.items()}
    brokers["filtered"] = over_sns(aws, stable)
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Brokers": brokers}}, environment=AWS_ENVIRONMENT)
    server.store(make_study(series=12, instances=2))
    expected = 24 + 12 + 2
    structured = {
        (event := json.loads(each["Body"]))["id"]: (event, each) for each in topics["structured"].read(expected)
    }
    assert len(structured) == expected
    for event, message in structured.values():
        check(event)
        attributes = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
        assert attributes == {name: event[name] for name in ("id", "source", "subject", "type")}
    for message in topics["binary"].read(expected):
        headers = {
            name.replace("_", "-", 1): value["StringValue"] for name, value in message["MessageAttributes"].items()
        }
        headers = {("content-type" if name.startswith("content") else name): value for name, value in headers.items()}
        found = http_binding.from_http_event(http_binding.HTTPMessage(headers, message["Body"].encode()))
        assert same(found, structured[headers["ce-id"]][0])
    assert {json.loads(each["Body"])["eventID"] for each in topics["plain"].read(expected)} == structured.keys()
    assert {json.loads(each["Body"])["type"] for each in stable.read(12)} == {"dicom.series.stable"}
    assert "wJalrXUtnFEMI" not in server.log


def test_a_fifo_topic_keeps_order_and_is_told_what_is_a_repeat(start_orthanc: StartOrthanc, aws: str) -> None:
    topic = Subscription(aws, "order.fifo")
    server = start_orthanc(
        SCRIPT, {"DicomEvents": {"Broker": over_sns(aws, topic)}, **NEVER_STABLE}, environment=AWS_ENVIRONMENT
    )
    server.store(make_study(patient_id="A", instances=8))
    server.store(make_study(patient_id="B", instances=8))
    messages = topic.read(16)
    for message in messages:
        event = json.loads(message["Body"])
        assert message["Attributes"]["MessageGroupId"] == event["data"]["orthanc"]["study"]
        assert message["Attributes"]["MessageDeduplicationId"] == event["id"]
    found = [json.loads(message["Body"]) for message in messages]
    for series in server.get("/series"):
        mine = [event["data"]["counts"]["instances"] for event in found if event["data"]["orthanc"]["series"] == series]
        assert mine == list(range(1, 9))


def test_what_is_too_large_for_sns_is_a_dead_letter_and_no_topic_is_waited_for(
    start_orthanc: StartOrthanc, aws: str, tmp_path: Path
) -> None:
    topic = Subscription(aws, "large")
    (tmp_path / "dicom_events").symlink_to(SCRIPT.parent)
    script = tmp_path / "own.py"
    script.write_text(
        "import dicom_events, orthanc\n"
        "def send(output, uri, **request):\n"
        "    for n in (10, 200_000, 300_000, 20):\n"
        "        dicom_events.publish('org.test', 'x' * n, f'things/{n}')\n"
        "    output.AnswerBuffer('ok', 'text/plain')\n"
        "orthanc.RegisterRestCallback('/send', send)\n"
    )
    brokers = {"large": over_sns(aws, topic), "none": {"Type": "sqs-sns", "SNSConfig": {
        "TopicArn": "arn:aws:sns:eu-west-1:123456789012:nobody", "EndpointURL": aws}}}  # fmt: skip
    server = start_orthanc(script, {"DicomEvents": {"Brokers": brokers}, **NEVER_STABLE}, environment=AWS_ENVIRONMENT)
    server.get("/send")
    assert sorted(len(json.loads(message["Body"])["data"]) for message in topic.read(3)) == [10, 20, 200_000]
    letters = server.wait_until(lambda: server.get("/dicom-events/dead-letters")["Items"])
    assert [(each["Broker"], each["Subject"]) for each in letters] == [("large", "things/300000")]
    assert "SNS takes" in letters[0]["Error"]
    server.wait_for_log("broker none is away")
    assert brokers_of(server)["none"]["Backlog"] == 4


# -- Kafka ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def kafka() -> Iterator[str]:
    """librdkafka's mock cluster of three brokers; it lives in the client that asked for it."""
    cluster = confluent_kafka.Producer({"test.mock.num.brokers": 3, "bootstrap.servers": "unused", "log_level": 0})
    metadata = cluster.list_topics(timeout=10)
    yield ",".join(f"{each.host}:{each.port}" for each in metadata.brokers.values())
    del cluster


def read_topic(bootstrap: str, topic: str, number: int) -> list[Any]:
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": bootstrap, "group.id": topic, "auto.offset.reset": "earliest", "log_level": 0}
    )
    consumer.subscribe([topic])
    found: list[Any] = []

    def enough() -> bool:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            found.append(message)
        return len(found) >= number

    wait_until(enough, what=f"{number} messages of {topic}")
    consumer.close()
    return found


def test_kafka_gets_each_study_in_one_partition_in_order_in_each_form(start_orthanc: StartOrthanc, kafka: str) -> None:
    brokers = {
        form: {"Type": "kafka", "Format": form, "KafkaConfig": {"BootstrapServers": kafka, "Topic": form}}
        for form in ("structured", "binary", "plain")
    }
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Brokers": brokers}})
    for seed in range(4):
        server.store(make_study(series=2, instances=5, seed=seed))
    expected = 4 * (10 + 2 + 1) + 1
    messages = read_topic(kafka, "structured", expected)
    structured = {(event := json.loads(message.value()))["id"]: event for message in messages}
    assert len(structured) == expected
    for event in structured.values():
        check(event)
    for study in server.get("/studies"):
        mine = [message for message in messages if json.loads(message.value())["data"]["orthanc"].get("study") == study]
        assert {message.key() for message in mine} == {study.encode()}
        assert len({message.partition() for message in mine}) == 1
    for series in server.get("/series"):
        stored = [event for event in of_type(list(structured.values()), "dicom.instance.stored")
                  if event["data"]["orthanc"]["series"] == series]  # fmt: skip
        assert [event["data"]["counts"]["instances"] for event in stored] == [1, 2, 3, 4, 5]
    for message in read_topic(kafka, "binary", expected):
        binary = kafka_binding.KafkaMessage(dict(message.headers()), None, message.value())  # a key is `partitionkey`
        found = kafka_binding.from_kafka_event(binary)
        assert same(found, structured[found.get_id()])
    assert {
        json.loads(message.value())["eventID"] for message in read_topic(kafka, "plain", expected)
    } == structured.keys()


def test_a_kafka_that_is_not_there_is_waited_for_and_what_is_too_large_is_dead(
    start_orthanc: StartOrthanc, kafka: str, tmp_path: Path
) -> None:
    (tmp_path / "dicom_events").symlink_to(SCRIPT.parent)
    script = tmp_path / "own.py"
    script.write_text(
        "import dicom_events, orthanc\n"
        "def send(output, uri, **request):\n"
        "    for n in (10, 2_000_000, 20):\n"
        "        dicom_events.publish('org.test', 'x' * n, f'things')\n"
        "    output.AnswerBuffer('ok', 'text/plain')\n"
        "orthanc.RegisterRestCallback('/send', send)\n"
    )
    brokers = {
        "here": {"Type": "kafka", "KafkaConfig": {"BootstrapServers": kafka}},
        "away": {"Type": "kafka", "KafkaConfig": {"BootstrapServers": "127.0.0.1:1"}},
        "wrong": {"Type": "kafka", "KafkaConfig": {"BootstrapServers": kafka, "Options": {"sasl.pasword": "pa55word"}}},
    }
    server = start_orthanc(script, {"DicomEvents": {"Brokers": brokers}, **NEVER_STABLE})
    server.get("/send")
    assert [len(json.loads(message.value())["data"]) for message in read_topic(kafka, "orthanc", 2)] == [10, 20]
    letters = server.get("/dicom-events/dead-letters")["Items"]
    assert [each["Broker"] for each in letters] == ["here"]
    server.wait_for_log("broker away is away")
    assert "sasl.pasword" in server.wait_for_log("broker wrong is off")
    assert "pa55word" not in server.log
    assert brokers_of(server)["away"]["Backlog"] == 3


# -- what hangs, what is missing ------------------------------------------------------------------------------------


def test_brokers_that_take_a_connection_and_never_answer_delay_the_end_of_orthanc_by_two_seconds_at_most(
    start_orthanc: StartOrthanc,
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        topic = {"TopicArn": "arn:aws:sns:eu-west-1:123456789012:x", "EndpointURL": f"http://{address}"}
        brokers = {
            "rabbit": {"Type": "rabbitmq", "RabbitConfig": {"URL": f"amqp://{address}/"}},
            "sns": {"Type": "sqs-sns", "SNSConfig": topic},
            "nats": {"Type": "nats", "NatsConfig": {"URL": f"nats://{address}"}},
            "kafka": {"Type": "kafka", "KafkaConfig": {"BootstrapServers": address}},
            "webhook": {"Type": "webhook", "WebhookConfig": {"URL": f"http://{address}/"}},
        }
        quiet = start_orthanc("import orthanc\n", NEVER_STABLE)
        server = start_orthanc(
            SCRIPT, {"DicomEvents": {"Brokers": brokers}, **NEVER_STABLE}, environment=AWS_ENVIRONMENT
        )
        server.store(make_study(instances=3))
        server.wait_until(lambda: {each["Backlog"] for each in brokers_of(server).values()} == {3})
        started = time.monotonic()
        quiet.terminate()
        assert quiet.finish() == 0
        without = time.monotonic() - started
        started = time.monotonic()
        server.terminate()
        assert server.finish() == 0
        assert time.monotonic() - started < without + 2


def test_a_package_that_is_not_installed_is_named_in_one_line_and_the_others_go_on(start_orthanc: StartOrthanc) -> None:
    brokers = {
        "rabbit": {"Type": "rabbitmq", "RabbitConfig": {"URL": "amqp://127.0.0.1:1/"}},
        "sns": {"Type": "sqs-sns", "SNSConfig": {"TopicArn": "arn:aws:sns:eu-west-1:123456789012:x"}},
        "nats": {"Type": "nats", "NatsConfig": {"URL": "nats://127.0.0.1:1"}},
        "kafka": {"Type": "kafka", "KafkaConfig": {"BootstrapServers": "127.0.0.1:1"}},
        "binary": {"Type": "webhook", "Format": "binary", "WebhookConfig": {"URL": "http://127.0.0.1:1/"}},
        "file": {"Type": "file"},
    }
    server = start_orthanc(
        SCRIPT, {"DicomEvents": {"Brokers": brokers}, **NEVER_STABLE}, environment={"PYTHONPATH": "/nowhere"}
    )
    packages = {
        "rabbit": "pika",
        "sns": "boto3",
        "nats": "nats-py",
        "kafka": "confluent-kafka",
    }
    for name, package in packages.items():
        server.wait_for_log(f"broker {name} is off: it needs the Python package {package}, ")
    server.store(make_study(instances=2))
    server.wait_until(lambda: brokers_of(server)["file"]["Published"] == 2)
    assert brokers_of(server)["binary"]["State"] == "away"  # the binary form needs no package
    assert "Traceback" not in server.log


def test_a_package_that_is_too_old_is_named_in_one_line_and_the_others_go_on(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    (tmp_path / "pika-1.1.0.dist-info").mkdir()
    (tmp_path / "pika-1.1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: pika\nVersion: 1.1.0\n")
    path = f"{tmp_path}:{site_packages()}"
    brokers = {"rabbit": {"Type": "rabbitmq", "RabbitConfig": {"URL": "amqp://127.0.0.1:1/"}}, "file": {"Type": "file"}}
    server = start_orthanc(
        SCRIPT, {"DicomEvents": {"Brokers": brokers}}, environment={"PYTHONPATH": path, "ORTHANC_SITE": path}
    )
    server.wait_for_log("broker rabbit is off: it needs the Python package pika, 1.2 or newer (found 1.1.0)")
    server.store(make_study(instances=2))
    server.wait_until(lambda: brokers_of(server)["file"]["Published"] >= 2)
    assert "Traceback" not in server.log
