# SPDX-License-Identifier: AGPL-3.0-or-later
"""The consumers of examples/: each run on its broker, with events of a real Orthanc."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer, start_process
from tests.brokers import NatsServer, RabbitServer, stop_process, wait_until
from tests.dicom_events.brokers.helpers import AWS_ENVIRONMENT, KINDS, Subscription, over_rabbit, over_sns
from tests.dicom_events.conftest import aws as aws
from tests.dicom_events.conftest import kafka as kafka
from tests.dicom_events.helpers import ROOT, SCRIPT, wait_for
from tests.scripts import combine_scripts

EXAMPLES = ROOT / "examples"


@contextmanager
def running(folder: Path, name: str, *arguments: str, **environment: str) -> Iterator[Path]:
    """The program, until it is ready; what it prints is in a file."""
    log = folder / f"{name}.log"
    process = start_process([sys.executable, str(EXAMPLES / name), *arguments], log=log, environment=environment)
    try:
        wait_until(lambda: "ready" in log.read_text(), what=f"{name}")
        yield log
    finally:
        stop_process(process)


def printed(log: Path) -> list[str]:
    return [line.split()[0] for line in log.read_text().splitlines() if line.startswith(("dicom.", "org."))]


def store_and_compare(server: OrthancServer, log: Path) -> None:
    server.store(make_study(instances=3))
    wait_until(lambda: len(printed(log)) >= len(KINDS), what=f"all events: {log.read_text()}")
    # Told again, the images are not worked on again.
    server.post("/dicom-events/replay", {"Study": server.get("/studies")[0]})
    wait_until(lambda: len(printed(log)) >= len(KINDS) + 3, what=f"the replay: {log.read_text()}")
    assert sorted(printed(log)) == sorted([*KINDS, *KINDS[3:]]), log.read_text()


def test_the_consumer_for_rabbitmq_works(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    rabbit = RabbitServer(tmp_path / "rabbit").start()
    try:
        with running(tmp_path, "consume_rabbitmq.py", rabbit.url, "orthanc", "dicom.#") as log:
            server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": over_rabbit(rabbit, "orthanc")}})
            store_and_compare(server, log)
    finally:
        rabbit.close()


def test_the_consumer_for_sqs_works(start_orthanc: StartOrthanc, tmp_path: Path, aws: str) -> None:
    topic = Subscription(aws, "example")
    environment = {**AWS_ENVIRONMENT, "AWS_DEFAULT_REGION": "eu-west-1"}
    with running(tmp_path, "consume_sqs.py", topic.url, aws, **environment) as log:
        server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": over_sns(aws, topic)}}, environment=AWS_ENVIRONMENT)
        store_and_compare(server, log)


def test_the_consumer_for_nats_works(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    server_of_nats = NatsServer(tmp_path / "nats").start()
    try:
        broker = {"Type": "nats", "NatsConfig": {"URL": server_of_nats.url}}
        server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": broker}})
        server.wait_until(lambda: server.get("/dicom-events/status")["Brokers"]["broker"]["State"] == "connected")
        # The stream knows for two minutes what it has: here each comes once anyway.
        with running(tmp_path, "consume_nats.py", server_of_nats.url, "ORTHANC", "orthanc.dicom.>") as log:
            store_and_compare(server, log)
    finally:
        server_of_nats.close()


def test_the_consumer_for_kafka_works(start_orthanc: StartOrthanc, tmp_path: Path, kafka: str) -> None:
    broker = {"Type": "kafka", "KafkaConfig": {"BootstrapServers": kafka}}
    with running(tmp_path, "consume_kafka.py", kafka, "orthanc") as log:
        store_and_compare(start_orthanc(SCRIPT, {"DicomEvents": {"Broker": broker}}), log)


def test_the_webhook_server_takes_what_is_signed_and_nothing_else(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    with running(tmp_path, "webhook_server.py", "0", "s3cret") as log:
        url = f"http://127.0.0.1:{log.read_text().split()[1]}/"
        brokers = {
            "right": {"Type": "webhook", "WebhookConfig": {"URL": url, "Secret": "s3cret"}},
            "wrong": {"Type": "webhook", "WebhookConfig": {"URL": url, "Secret": "other"}},
        }
        server = start_orthanc(SCRIPT, {"DicomEvents": {"Brokers": brokers}})
        store_and_compare(server, log)
        server.wait_for_log("broker wrong is away, what happens meanwhile is kept: HTTP 401")


def test_the_follower_of_the_file_goes_on_when_it_is_rotated(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    config = {"Path": str(tmp_path / "events.jsonl"), "MaxMegabytes": 0.01}
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": {"Type": "file", "FileConfig": config}}})
    with running(tmp_path, "follow_events_file.py", str(tmp_path / "events.jsonl")) as log:
        store_and_compare(server, log)
        for seed in range(1, 6):
            server.store(make_study(seed=seed, instances=5))
        wait_until(lambda: printed(log).count(KINDS[0]) == 3 + 25)
    assert (tmp_path / "events.jsonl.1").exists()


def test_a_script_of_ones_own_publishes_its_own_events(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    script = combine_scripts(EXAMPLES / "publish_own_events.py", SCRIPT.parent, to=tmp_path / "combined.py")
    server = start_orthanc(script, {"StableAge": 3600})
    uid = server.post("/hello/world")["id"]
    event = wait_for(server, "org.example.hello")[0]
    assert (event["id"], event["data"], event["subject"]) == (uid, {"to": "world"}, "/hello/world")
