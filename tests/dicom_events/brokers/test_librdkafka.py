# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events with Kafka: librdkafka's mock cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import confluent_kafka
from cloudevents.core.bindings import kafka as kafka_binding

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.brokers import wait_until
from tests.dicom_events.brokers.helpers import brokers_of, same
from tests.dicom_events.helpers import NEVER_STABLE, SCRIPT, check, of_type


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
    assert "sasl.pasword" in server.wait_for_log('broker "wrong" is off')
    assert "pa55word" not in server.log
    assert brokers_of(server)["away"]["Backlog"] == 3
