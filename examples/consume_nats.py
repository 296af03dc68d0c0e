# SPDX-License-Identifier: AGPL-3.0-or-later
"""Prints the events of dicom_events from a NATS JetStream stream, each once.

python3 consume_nats.py nats://localhost:4222 ORTHANC 'orthanc.dicom.study.>'

The consumer is durable: what happens while this program is away waits for it. An event is acknowledged when it has been
worked on: after a crash it comes again. Needs nats-py.
"""

import asyncio
import json
import sys
from collections import OrderedDict
from typing import Any

import nats
import nats.errors

DURABLE = "dicom-events-example"
REMEMBERED = 100_000


def work_on(event: dict[str, Any]) -> None:
    """What a program of your own does, before it acknowledges."""
    print(event["type"], event["subject"], flush=True)


async def main(url: str, stream: str, subject: str) -> None:
    connection = await nats.connect(url)
    consumer = await connection.jetstream().pull_subscribe(subject, durable=DURABLE, stream=stream)
    seen: OrderedDict[str, None] = OrderedDict()  # a program that keeps a database remembers the identifiers there
    print("ready", flush=True)
    while True:
        try:
            messages = await consumer.fetch(100, timeout=5)
        except nats.errors.TimeoutError:
            continue  # nothing has happened
        for message in messages:
            event = json.loads(message.data)
            if event["id"] not in seen:
                work_on(event)
                seen[event["id"]] = None
                if len(seen) > REMEMBERED:
                    seen.popitem(last=False)
            await message.ack()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:]))
