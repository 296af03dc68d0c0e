# SPDX-License-Identifier: AGPL-3.0-or-later
"""Greets when Orthanc has started, and publishes the greeting as an event of its own; the start of a script of yours.

    python3 combine.py examples/entry_point/entry_point.py event_dispatcher.py dicom_events -o combined.py

or, in containers with NATS: `docker compose -f examples/entry_point/docker-compose.yml up --build`.
"""

import logging
from typing import Any

import orthanc

import dicom_events
from event_dispatcher import create_session, pipeline, register_event_handlers


def hello(event: Any, session: Any) -> dict[str, Any]:
    answer = session.get("/system")
    answer.raise_for_status()
    system = answer.json()
    logging.warning("Hello: %s, this is Orthanc %s", event, system["Version"])
    return {"change": str(event.change_type), "version": system["Version"], "name": system["Name"]}


def publish(greeting: dict[str, Any], _session: Any) -> str:
    """On disk when it returns; the broker gets it as soon as it can be reached."""
    return dicom_events.publish("org.example.hello", greeting, subject=greeting["name"])


register_event_handlers(
    {orthanc.ChangeType.ORTHANC_STARTED: pipeline(hello, publish)}, orthanc, create_session(orthanc)
)
