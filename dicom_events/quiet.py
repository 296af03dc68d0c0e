# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/quiet.py: edit that, never this file.
"""What libraries of brokers log is kept out of Orthanc's log: a publisher says itself, once, that its broker is away."""

from __future__ import annotations

import logging

THREADS = "dicom_events"  # what the names of our threads begin with
LIBRARIES = ("pika", "nats", "boto3", "botocore", "urllib3", "requests", "confluent_kafka", "asyncio")


class NotOurs(logging.Handler):
    """Passes on what other threads log, for whom the same library is their own business."""

    def emit(self, record: logging.LogRecord) -> None:
        if not (record.threadName or "").startswith(THREADS):
            logging.getLogger().callHandlers(record)  # without any, Python writes warnings to standard error


def quiet_libraries() -> None:
    """Stop records of our own threads from reaching the handlers of the process (`event_dispatcher` has one)."""
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        if not any(isinstance(handler, NotOurs) for handler in logger.handlers):
            logger.addHandler(NotOurs())
            logger.propagate = False
