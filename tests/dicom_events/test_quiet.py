# SPDX-License-Identifier: AGPL-3.0-or-later
"""A broker that is away is one line in Orthanc's log when it goes and one when it is back, whatever its library would log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.brokers import NatsServer, RabbitServer
from tests.dicom_events.brokers.helpers import AWS_ENVIRONMENT, over_rabbit
from tests.dicom_events.helpers import NEVER_STABLE, ROOT, SCRIPT
from tests.scripts import combine_scripts

LIBRARIES = ("pika", "AMQP", "boto", "urllib3", "nats:", "rdkafka", "Traceback", "exception was never retrieved")
OWN = """
import logging
import sys
import time
sys.path.insert(0, "FOLDER")
import event_dispatcher
def log(event, session):
    logging.getLogger("my_own").warning("my own line")
    time.sleep(3)  # until ours is in use
    logging.getLogger("pika.own").warning("a line of a user")
import orthanc
event_dispatcher.register_event_handlers({orthanc.ChangeType.ORTHANC_STARTED: log}, orthanc, None)
"""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[RabbitServer, NatsServer]]:
    rabbit, nats = RabbitServer(tmp_path / "rabbit"), NatsServer(tmp_path / "nats")
    try:
        yield rabbit.start(), nats.start()
    finally:
        rabbit.close()
        nats.close()


@pytest.mark.parametrize("beside", [False, True])
def test_a_broker_that_is_away_is_two_lines_of_the_log(
    start_orthanc: StartOrthanc, servers: tuple[RabbitServer, NatsServer], tmp_path: Path, beside: bool
) -> None:
    script = SCRIPT
    if beside:
        own = tmp_path / "own.py"
        own.write_text(OWN.replace("FOLDER", str(ROOT)))
        script = combine_scripts(own, SCRIPT.parent, to=tmp_path / "combined.py", warns=True)
    rabbit, nats = servers
    nobody = "127.0.0.1:1"
    brokers = {
        "rabbit": over_rabbit(rabbit, "quiet"),
        "nats": {"Type": "nats", "NatsConfig": {"URL": nats.url}},
    }
    away = {
        "no rabbit": {"Type": "rabbitmq", "RabbitConfig": {"URL": f"amqp://{nobody}/"}},
        "no nats": {"Type": "nats", "NatsConfig": {"URL": f"nats://{nobody}"}},
        "no kafka": {"Type": "kafka", "KafkaConfig": {"BootstrapServers": nobody}},
        "no sns": {"Type": "sqs-sns", "SNSConfig": {"TopicArn": "arn:aws:sns:eu-west-1:123456789012:x",
                                                    "EndpointURL": f"http://{nobody}"}},
    }  # fmt: skip
    settings = {"DicomEvents": {"Brokers": {**brokers, **away}}, **NEVER_STABLE}
    server = start_orthanc(script, settings, environment=AWS_ENVIRONMENT)
    for name in away:
        server.wait_for_log(f"broker {name} is away")
    server.store(make_study(instances=3))
    rabbit.stop()
    nats.stop()
    server.store(make_study(instances=3, seed=1))
    for name in brokers:
        server.wait_for_log(f"broker {name} is away")
    time.sleep(5)
    rabbit.start()
    nats.start()
    for name in brokers:
        server.wait_for_log(f"broker {name} is back", 60)
    assert server.stop() == 0
    lines = server.log.splitlines()
    for name in (*brokers, *away):
        mine = [line for line in lines if f"broker {name} " in line]
        assert len(mine) == (2 if name in brokers else 1), mine
    others = [line for line in lines if "dicom_events: " not in line and any(word in line for word in LIBRARIES)]
    assert others == []
    assert ("my own line" in server.log) == beside
    assert ("a line of a user" in server.log) == beside
