# SPDX-License-Identifier: AGPL-3.0-or-later
"""A server with every event on, real brokers, and servers that stand in for cloud services."""

from __future__ import annotations

from collections.abc import Iterator

import confluent_kafka
import pytest
from moto.server import ThreadedMotoServer

from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.brokers import RabbitServer
from tests.dicom_events.brokers.helpers import Hook
from tests.dicom_events.helpers import ALL_EVENTS, SCRIPT


@pytest.fixture(scope="module")
def shared(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    """One server with every event on and a tag asked for, for all who only store, look and delete."""
    return start_orthanc_for_module(
        SCRIPT,
        {
            "DicomEvents": {
                "Events": {
                    **ALL_EVENTS,
                    "StoredInstancePublishTags": ["InstanceNumber", "0008,0060"],
                    "StableSeriesPublishTags": ["Modality", "BodyPartExamined"],
                    "StableStudyPublishTags": ["StudyDate"],
                    "StablePatientPublishTags": ["PatientName"],
                },
                "Source": "/hospital/orthanc",
            }
        },
    )


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    server = RabbitServer(tmp_path_factory.mktemp("rabbit") / "server")
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    """moto's server, as a process would see AWS."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def kafka() -> Iterator[str]:
    """librdkafka's mock cluster of three brokers; it lives in the client that asked for it."""
    cluster = confluent_kafka.Producer({"test.mock.num.brokers": 3, "bootstrap.servers": "unused", "log_level": 0})
    metadata = cluster.list_topics(timeout=10)
    yield ",".join(f"{each.host}:{each.port}" for each in metadata.brokers.values())
    del cluster
