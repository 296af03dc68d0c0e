# SPDX-License-Identifier: AGPL-3.0-or-later
"""Consumers of each broker, and the settings that lead to it."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pika  # type: ignore[import-untyped]
from cloudevents.core.formats.json import JSONFormat

from testing.server import OrthancServer
from tests.brokers import RabbitServer, wait_until

KINDS = ["dicom.instance.stored"] * 3 + [f"dicom.{level}.stable" for level in ("series", "study", "patient")]


def brokers_of(server: OrthancServer) -> dict[str, Any]:
    return dict(server.get("/dicom-events/status")["Brokers"])


def wait_for_empty(server: OrthancServer, timeout: float = 60) -> dict[str, Any]:
    """Until each broker has all; their statuses."""

    def empty() -> dict[str, Any]:
        found = brokers_of(server)
        return found if not any(each["Backlog"] for each in found.values()) else {}

    return dict(server.wait_until(empty, timeout, "nothing waits any more"))


def same(event: Any, structured: dict[str, Any]) -> bool:
    """Whether a CloudEvent that was read is the one in this structured form (which writes milliseconds)."""
    found = json.loads(JSONFormat().write(event))
    times = {datetime.fromisoformat(each["time"]) for each in (found, structured)}
    return len(times) == 1 and {**found, "time": 0} == {**structured, "time": 0}


class RabbitConsumer:
    """A queue of its own, bound to an exchange; what it got, in order."""

    def __init__(self, server: RabbitServer, exchange: str, key: str = "#", declare_queue: bool = True) -> None:
        self._server, self.queue = server, f"queue-{exchange}"
        self.messages: list[tuple[Any, Any, bytes]] = []
        self._exchange, self._key, self._declares_queue = exchange, key, declare_queue
        self.bind()

    def bind(self) -> None:
        """Bind the queue; again after a kill of RabbitMQ, which writes a new binding down some time later."""
        with self._channel() as channel:
            channel.exchange_declare(self._exchange, "topic", durable=True)
            if self._declares_queue:
                channel.queue_declare(self.queue, durable=True)
            channel.queue_bind(self.queue, self._exchange, self._key)

    def _channel(self) -> Any:
        channel = pika.BlockingConnection(pika.URLParameters(self._server.url)).channel()
        return _Closing(channel)

    def read(self, number: int = 0, timeout: float = 30) -> list[dict[str, Any]]:
        """Take until there are so many different ones in all; bodies, decoded, each the first time it came."""
        deadline = time.monotonic() + timeout
        with self._channel() as channel:
            while True:
                method, properties, body = channel.basic_get(self.queue, auto_ack=True)
                if method is not None:
                    self.messages.append((method, properties, body))
                elif len(found := self._different()) >= number:
                    return found
                elif time.monotonic() > deadline:
                    raise TimeoutError(f"{len(self.messages)} messages, not {number}")
                else:
                    time.sleep(0.02)

    def _different(self) -> list[dict[str, Any]]:
        found: dict[str, bytes] = {}
        for _, properties, body in self.messages:
            found.setdefault(properties.message_id, body)
        return [json.loads(body) for body in found.values()]


class _Closing:
    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def __enter__(self) -> Any:
        return self._channel

    def __exit__(self, *_: object) -> None:
        self._channel.connection.close()


def over_rabbit(server: RabbitServer, exchange: str, **more: Any) -> dict[str, Any]:
    config = {"URL": server.url, "Exchange": exchange, **more.pop("RabbitConfig", {})}
    return {"Type": "rabbitmq", "RabbitConfig": config, **more}


def seconds_to_end(server: OrthancServer) -> float:
    """How long Orthanc takes from SIGTERM to its end."""
    started = time.monotonic()
    server.terminate()
    assert server.finish() == 0
    return time.monotonic() - started


class Hook(http.server.ThreadingHTTPServer):
    """Takes what is posted; `answers` gives the status for a body, 200 if it says nothing."""

    daemon_threads = True

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), HookHandler)
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.asked: list[str] = []
        self.answers: Callable[[dict[str, Any]], int] = lambda _event: 200
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.server_address[1]}/hook?x=1"
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.taken]


class HookHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        status = self.server.answers(json.loads(body))
        if status == 200:
            self.server.taken.append((dict(self.headers), body))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def over_webhook(hook: Hook, **more: Any) -> dict[str, Any]:
    config = {"URL": hook.url, **more.pop("WebhookConfig", {})}
    return {"Type": "webhook", "WebhookConfig": config, **more}


AWS_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}


def aws_client(name: str, endpoint: str) -> Any:
    return boto3.session.Session("AKIDEXAMPLE", "wJalrXUtnFEMI", region_name="eu-west-1").client(
        name, endpoint_url=endpoint
    )


class Subscription:
    """A topic, and a queue behind it."""

    def __init__(self, endpoint: str, name: str, policy: dict[str, Any] | None = None) -> None:
        fifo = {"FifoTopic": "true"} if name.endswith(".fifo") else {}
        self.arn = aws_client("sns", endpoint).create_topic(Name=name, Attributes=fifo)["TopicArn"]
        self._sqs = aws_client("sqs", endpoint)
        self.url = self._sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true"} if fifo else {})["QueueUrl"]
        queue = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        aws_client("sns", endpoint).subscribe(
            TopicArn=self.arn,
            Protocol="sqs",
            Endpoint=queue,
            Attributes={"RawMessageDelivery": "true", **({"FilterPolicy": json.dumps(policy)} if policy else {})},
        )

    def read(self, number: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []

        def enough() -> bool:
            answer = self._sqs.receive_message(
                QueueUrl=self.url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"]
            )
            for message in answer.get("Messages", []):
                self._sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
                found.append(message)
            return len(found) >= number

        wait_until(enough, what=f"{number} messages")
        return found


def over_sns(endpoint: str, subscription: Subscription, **more: Any) -> dict[str, Any]:
    return {"Type": "sqs-sns", "SNSConfig": {"TopicArn": subscription.arn, "EndpointURL": endpoint}, **more}
