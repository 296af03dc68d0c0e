# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events with SNS, as moto answers for it."""

from __future__ import annotations

import json
from pathlib import Path

from cloudevents.core.bindings import http as http_binding

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.dicom_events.brokers.helpers import AWS_ENVIRONMENT, Subscription, brokers_of, over_sns, same
from tests.dicom_events.helpers import NEVER_STABLE, SCRIPT, check


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
