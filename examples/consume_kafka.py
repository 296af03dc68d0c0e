# SPDX-License-Identifier: AGPL-3.0-or-later
"""Prints the events of dicom_events from Kafka, each once.

python3 consume_kafka.py localhost:9092 orthanc

The place in the topic is kept for the group, and moved when an event has been worked on: after a crash it comes again.
Needs confluent-kafka.
"""

import json
import sys
from collections import OrderedDict
from typing import Any

import confluent_kafka

GROUP = "dicom-events-example"
REMEMBERED = 100_000


def work_on(event: dict[str, Any]) -> None:
    """What a program of your own does, before the place is moved."""
    print(event["type"], event["subject"], flush=True)


def main(servers: str, topic: str) -> None:
    settings: dict[str, Any] = {"group.id": GROUP, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = confluent_kafka.Consumer({"bootstrap.servers": servers, **settings})
    consumer.subscribe([topic])
    seen: OrderedDict[str, None] = OrderedDict()  # a program that keeps a database remembers the identifiers there
    print("ready", flush=True)
    while True:
        message = consumer.poll(5)
        if message is None or message.error():
            continue
        event = json.loads(message.value())
        if event["id"] not in seen:
            work_on(event)
            seen[event["id"]] = None
            if len(seen) > REMEMBERED:
                seen.popitem(last=False)
        consumer.commit(message, asynchronous=False)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
