# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/brokers/sns.py: edit that, never this file.
"""Amazon SNS: batches of ten, attributes to filter on; FIFO topics in order for each study."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import botocore.config  # type: ignore[import-untyped]
import botocore.exceptions  # type: ignore[import-untyped]

from ..broker_settings import SNSConfig
from ..events import Event, Form
from . import BrokerAwayError, Outcome, Submitted, ThreadedBroker, failure

ENTRIES_PER_CALL = 10  # entries a call
MOST_BYTES = 256 * 1024  # bytes of one message with its attributes, and of one batch
# What SNS, or its client, says of a batch for what is in it; it does not say for which of them.
OF_THE_EVENT = {"InvalidParameter", "InvalidParameterValue", "ParameterValueInvalid", "ValidationException",
                "ValidationError", "InvalidBatchEntryId", "BatchRequestTooLong"}  # fmt: skip


class SNS(ThreadedBroker):
    """Credentials are found the AWS way; a standard topic keeps no order, a FIFO topic does."""

    threads = 8
    most_under_way = ENTRIES_PER_CALL * threads
    away = (OSError, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)

    def __init__(self, form: Form, config: SNSConfig) -> None:
        super().__init__(form)
        self._config, self._fifo = config, config.topic_arn.endswith(".fifo")
        self._client: Any = None

    def open(self) -> None:
        settings = botocore.config.Config(
            connect_timeout=5,
            read_timeout=10,
            retries={"mode": "standard", "total_max_attempts": 2},
            max_pool_connections=self.threads,
        )
        region = self._config.topic_arn.split(":")[3] or None  # None: the AWS way
        try:
            self._client = boto3.session.Session().client(
                "sns", region_name=region, endpoint_url=self._config.endpoint_url, config=settings
            )
            self._client.get_topic_attributes(TopicArn=self._config.topic_arn)
        except botocore.exceptions.ClientError as error:
            # Who may only publish can't ask for the attributes.
            if error.response.get("Error", {}).get("Code") not in ("AuthorizationError", "AccessDenied"):
                raise BrokerAwayError(str(error)) from None
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise BrokerAwayError(f"{type(error).__name__}: {error}") from None
        self.start_threads()

    def batches(self, events: list[Submitted]) -> list[list[Submitted]]:
        return [events[start : start + ENTRIES_PER_CALL] for start in range(0, len(events), ENTRIES_PER_CALL)]

    def call(self, events: list[Submitted]) -> list[Outcome]:
        """Publish up to ten: together where they fit into one call."""
        outcomes, together, size = list[Outcome](), list[tuple[Event, dict[str, Any]]](), 0
        for event, entry in events:
            length = _size(entry)
            if length > MOST_BYTES:
                outcomes.append(
                    Outcome(event.row, f"{length} bytes are more than the {MOST_BYTES} that SNS takes", final=True)
                )
                continue
            if together and size + length > MOST_BYTES:
                outcomes += self._send(together)
                together, size = [], 0
            together.append((event, entry))
            size += length
        return outcomes + (self._send(together) if together else [])

    def message(self, event: Event) -> dict[str, Any]:
        message = self.form.message(event)
        if message.headers:
            # A name can't have a colon, and there are ten at most.
            attributes = {"content_type": message.mime}
            attributes |= {name.replace("-", "_", 1): value for name, value in message.headers.items()}
        else:
            named = self.form.attributes(event)
            attributes = {name: named[name] for name in ("type", "source", "subject", "id")}
        entry: dict[str, Any] = {
            "Id": str(event.row),
            "Message": message.body.decode(),
            "MessageAttributes": {
                name: {"DataType": "String", "StringValue": value} for name, value in attributes.items() if value
            },
        }
        if self._fifo:
            entry["MessageGroupId"] = _token(event.study)
            entry["MessageDeduplicationId"] = _token(event.id)
        return entry

    def _send(self, batch: list[tuple[Event, dict[str, Any]]]) -> list[Outcome]:
        try:
            answer = self._client.publish_batch(
                TopicArn=self._config.topic_arn, PublishBatchRequestEntries=[entry for _, entry in batch]
            )
        except (botocore.exceptions.ClientError, botocore.exceptions.ParamValidationError) as error:
            code = getattr(error, "response", {}).get("Error", {}).get("Code")
            if code not in OF_THE_EVENT and not isinstance(error, botocore.exceptions.ParamValidationError):
                raise
            if len(batch) == 1:
                return [failure(batch[0][0], error)]
            return [outcome for each in batch for outcome in self._send([each])]
        failed = {each["Id"]: each for each in answer.get("Failed", [])}
        return [self._outcome(event, failed.get(str(event.row))) for event, _ in batch]

    @staticmethod
    def _outcome(event: Event, failed: dict[str, Any] | None) -> Outcome:
        if failed is None:
            return Outcome(event.row)
        return Outcome(
            event.row, f"{failed.get('Code')}: {failed.get('Message')}", final=bool(failed.get("SenderFault"))
        )


def _size(entry: dict[str, Any]) -> int:
    attributes = entry["MessageAttributes"].items()
    return len(entry["Message"].encode()) + sum(
        len(name) + 6 + len(value["StringValue"].encode()) for name, value in attributes
    )


def _token(text: str) -> str:
    """Return a group or an id as SNS takes it, 128 characters without spaces; what is longer or other becomes its SHA-256."""
    return (
        text
        if re.fullmatch(r"[\w.!@#$%&*()+=:;,/?'\"-]{1,128}", text, re.ASCII)
        else hashlib.sha256(text.encode()).hexdigest()
    )


def make(form: Form, config: SNSConfig, _folder: Path, _say: Callable[[str, str], None]) -> SNS:
    return SNS(form, config)
