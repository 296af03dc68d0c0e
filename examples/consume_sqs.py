# SPDX-License-Identifier: AGPL-3.0-or-later
"""Prints the events of dicom_events from an SQS queue that is subscribed to the SNS topic, each once.

python3 consume_sqs.py https://sqs.eu-west-1.amazonaws.com/123456789012/events [ENDPOINT]

The subscription has raw message delivery on. Credentials are found the AWS way. A message is deleted when it has been
worked on: after a crash it comes again. Needs boto3.
"""

import json
import sys
from collections import OrderedDict
from typing import Any

import boto3  # type: ignore[import-untyped]

REMEMBERED = 100_000


def work_on(event: dict[str, Any]) -> None:
    """What a program of your own does, before it deletes the message."""
    print(event["type"], event["subject"], flush=True)


def main(queue: str, endpoint: str | None = None) -> None:
    client = boto3.client("sqs", endpoint_url=endpoint)
    seen: OrderedDict[str, None] = OrderedDict()  # a program that keeps a database remembers the identifiers there
    print("ready", flush=True)
    while True:
        answer = client.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=5)
        for message in answer.get("Messages", []):
            event = json.loads(message["Body"])
            if event["id"] not in seen:
                work_on(event)
                seen[event["id"]] = None
                if len(seen) > REMEMBERED:
                    seen.popitem(last=False)
            client.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
