# SPDX-License-Identifier: AGPL-3.0-or-later
"""A script of one's own that publishes its own events through the outbox of dicom_events.

python3 combine.py examples/publish_own_events.py dicom_events -o combined.py

`POST /hello/{anything}` then publishes `org.example.hello`.
"""

import json
from typing import Any

import orthanc

import dicom_events


def hello(output: Any, uri: str, **request: Any) -> None:
    """On disk when it is answered; the brokers get it as all events."""
    uid = dicom_events.publish("org.example.hello", {"to": request["groups"][0]}, subject=uri)
    output.AnswerBuffer(json.dumps({"id": uid}), "application/json")


orthanc.RegisterRestCallback("/hello/(.*)", hello)
