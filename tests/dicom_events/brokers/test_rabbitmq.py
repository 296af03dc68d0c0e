# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events with RabbitMQ, from Debian."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pika  # type: ignore[import-untyped]
import pytest
from cloudevents.core.bindings import amqp

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.brokers import RabbitServer, wait_until
from tests.constants import script_with
from tests.dicom_events.brokers.helpers import (
    KINDS,
    RabbitConsumer,
    brokers_of,
    over_rabbit,
    same,
    seconds_to_end,
    wait_for_empty,
)
from tests.dicom_events.helpers import NEVER_STABLE, SCRIPT, check, of_type


@pytest.fixture
def own_rabbit(tmp_path: Path) -> Iterator[RabbitServer]:
    """One to stop, to hang and to block."""
    server = RabbitServer(tmp_path / "rabbit")
    try:
        yield server.start()
    finally:
        server.close()


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
    broker = over_rabbit(rabbit, "nobody", Unroutable="drop")
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": broker}, **NEVER_STABLE})
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
    own_rabbit.restart_with("max_message_size = 2000")
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
    own_rabbit.restart_with()
    consumer.bind()
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
            'broker "missing" is off: RabbitConfig.URL, CACertificate, Certificate or CertificateKey can\'t be used'
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
