# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events with brokers that never answer, and with packages that are missing or too old."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import site_packages
from tests.dicom_events.brokers.helpers import AWS_ENVIRONMENT, brokers_of
from tests.dicom_events.helpers import NEVER_STABLE, SCRIPT


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
        "hook": {"Type": "webhook", "WebhookConfig": {"URL": "http://127.0.0.1:1/"}},
        "file": {"Type": "file", "Format": "binary"},
    }
    server = start_orthanc(
        SCRIPT, {"DicomEvents": {"Brokers": brokers}, **NEVER_STABLE}, environment={"PYTHONPATH": "/nowhere"}
    )
    packages = {
        "rabbit": "pika",
        "sns": "boto3",
        "nats": "nats-py",
        "kafka": "confluent-kafka",
        "hook": "requests",
    }
    for name, package in packages.items():
        server.wait_for_log(f'broker "{name}" is off: it needs the Python package {package}, ')
    server.store(make_study(instances=2))
    # The binary form needs no package.
    server.wait_until(lambda: brokers_of(server)["file"]["Published"] == 2)
    assert brokers_of(server)["hook"]["State"] == "misconfigured"
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
    server.wait_for_log('broker "rabbit" is off: it needs the Python package pika, 1.2 or newer (found 1.1.0)')
    server.store(make_study(instances=2))
    server.wait_until(lambda: brokers_of(server)["file"]["Published"] >= 2)
    assert "Traceback" not in server.log


HANGS = """
import socket, sys, time

def hang(host, *more, _look_up=socket.getaddrinfo, **named):
    if host == "no-answer.example":
        time.sleep(60)
    return _look_up(host, *more, **named)

socket.getaddrinfo = hang
sys.path.insert(0, {root!r})
import dicom_events
"""


def test_names_that_nobody_looks_up_do_not_delay_the_end_of_orthanc(start_orthanc: StartOrthanc) -> None:
    """As in a cluster whose DNS is away: a look-up takes its time, and can't be ended."""
    host = "no-answer.example"
    brokers = {
        "rabbitmq": {"Type": "rabbitmq", "RabbitConfig": {"URL": f"amqp://guest:guest@{host}/"}},
        "nats": {"Type": "nats", "NatsConfig": {"URL": f"nats://{host}:4222"}},
        "webhook": {"Type": "webhook", "WebhookConfig": {"URL": f"http://{host}/"}},
    }
    script = HANGS.format(root=str(SCRIPT.parents[1]))
    server = start_orthanc(script, {"DicomEvents": {"Brokers": brokers}, **NEVER_STABLE})
    server.store(make_study())
    time.sleep(2)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 15  # four without a script
