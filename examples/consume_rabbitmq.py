# SPDX-License-Identifier: AGPL-3.0-or-later
"""Prints the events of dicom_events from RabbitMQ, each once.

python3 consume_rabbitmq.py amqp://user:password@localhost/ orthanc 'dicom.study.*' [...]

The arguments after the exchange are routing keys, `#` for all. The queue is durable: what happens while this program is
away waits for it. An event is acknowledged when it has been worked on: after a crash it comes again. Needs pika.
"""

import json
import sys
from collections import OrderedDict
from typing import Any

import pika  # type: ignore[import-untyped]

QUEUE = "dicom-events-example"
REMEMBERED = 100_000


def work_on(event: dict[str, Any]) -> None:
    """What a program of your own does, before it acknowledges."""
    print(event["type"], event["subject"], flush=True)


def main(url: str, exchange: str, *keys: str) -> None:
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.exchange_declare(exchange, "topic", durable=True)
    channel.queue_declare(QUEUE, durable=True)
    for key in keys:
        channel.queue_bind(QUEUE, exchange, key)
    channel.basic_qos(prefetch_count=100)
    seen: OrderedDict[str, None] = OrderedDict()  # a program that keeps a database remembers the identifiers there
    print("ready", flush=True)
    for method, _properties, body in channel.consume(QUEUE):
        event = json.loads(body)
        if event["id"] not in seen:
            work_on(event)
            seen[event["id"]] = None
            if len(seen) > REMEMBERED:
                seen.popitem(last=False)
        channel.basic_ack(method.delivery_tag)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
