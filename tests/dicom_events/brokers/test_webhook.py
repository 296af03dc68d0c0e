# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events with a webhook."""

from __future__ import annotations

import base64
import hmac
import http
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings import http as http_binding

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.brokers import wait_until
from tests.constants import script_with
from tests.dicom_events.brokers.helpers import Hook, brokers_of, over_webhook, same, seconds_to_end
from tests.dicom_events.helpers import NEVER_STABLE, SCRIPT, check, of_type


def test_a_webhook_gets_signed_posts_in_order_in_both_forms(start_orthanc: StartOrthanc, hook: Hook) -> None:
    config = {"Secret": "s3cret", "Headers": {"Authorization": "Bearer t0ken"}}
    other = Hook()
    brokers = {"b": over_webhook(other, Format="binary")}
    broker = over_webhook(hook, WebhookConfig=config)
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": broker, "Brokers": brokers}}, verbose=True)
    server.store(make_study(series=3, instances=5))
    wait_until(lambda: len(hook.taken) == len(other.taken) == 15 + 3 + 2)
    for headers, body in hook.taken:
        expected = hmac.new(b"s3cret", headers["X-DicomEvents-Timestamp"].encode() + b"." + body, "sha256").hexdigest()
        assert headers["X-DicomEvents-Signature"] == f"sha256={expected}"
        assert (headers["Content-Type"], headers["Authorization"]) == ("application/cloudevents+json", "Bearer t0ken")
        check(json.loads(body))
    assert set(hook.asked) == {"/hook?x=1"}
    structured = {event["id"]: event for event in hook.events()}
    for headers, body in other.taken:
        lower = {name.lower(): value for name, value in headers.items()}
        found = http_binding.from_http_event(http_binding.HTTPMessage(lower, body))
        assert same(found, structured[lower["ce-id"]])
    for series in server.get("/series"):
        mine = [event["data"]["counts"]["instances"] for event in of_type(hook.events(), "dicom.instance.stored")
                if event["data"]["orthanc"]["series"] == series]  # fmt: skip
        assert mine == [1, 2, 3, 4, 5]
    assert "s3cret" not in server.log
    assert "t0ken" not in server.log
    other.shutdown()
    other.server_close()


def test_a_webhook_over_tls_is_verified_and_gets_the_user_of_its_url(
    start_orthanc: StartOrthanc, certificate: Path
) -> None:
    secure = Hook(certificate)
    url = secure.url.replace("://", "://me:p%40ss@")
    brokers = {
        "right": over_webhook(secure, WebhookConfig={"URL": url, "CACertificate": str(certificate)}),
        "distrusting": over_webhook(secure, WebhookConfig={"URL": url}),
    }
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Brokers": brokers}, **NEVER_STABLE})
    server.store(make_study(instances=3))
    wait_until(lambda: len(secure.taken) == 3)
    assert {headers["Authorization"] for headers, _ in secure.taken} == {
        f"Basic {base64.b64encode(b'me:p@ss').decode()}"
    }
    assert "certificate verify failed" in server.wait_for_log("broker distrusting is away")
    assert brokers_of(server)["distrusting"]["Published"] == 0
    secure.shutdown()
    secure.server_close()


def test_what_a_webhook_refuses_for_good_is_dead_and_what_fails_is_tried_again(
    start_orthanc: StartOrthanc, hook: Hook
) -> None:
    failures: dict[str, int] = {}

    def answer(event: dict[str, Any]) -> int:
        patient, count = event["data"]["dicom"]["PatientID"], event["data"]["counts"]["instances"]
        failures[patient] = failures.get(patient, 0) + (count == 2)
        if patient == "POISON" and count == 2:
            return 422
        return 500 if patient == "SHAKY" and count == 2 and failures[patient] < 3 else 200

    hook.answers = answer
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": over_webhook(hook)}, **NEVER_STABLE})
    for patient in ("POISON", "SHAKY", "GOOD"):
        server.store(make_study(patient_id=patient, instances=4))
    wait_until(lambda: len(hook.taken) == 3 + 4 + 4)
    for patient in ("POISON", "SHAKY", "GOOD"):
        mine = [
            event["data"]["counts"]["instances"]
            for event in hook.events()
            if event["data"]["dicom"]["PatientID"] == patient
        ]
        assert mine == ([1, 3, 4] if patient == "POISON" else [1, 2, 3, 4])
    # Nobody waited for the one that shook.
    assert hook.events()[-1]["data"]["dicom"]["PatientID"] == "SHAKY"
    page = server.get("/dicom-events/dead-letters", broker="broker")
    assert [(page["Total"], page["Next"], each["Error"], each["Attempts"]) for each in page["Items"]] == [
        (1, None, f"HTTP 422 {http.HTTPStatus(422).phrase}", 1)  # Python 3.13 has another phrase
    ]
    hook.answers = lambda _event: 200
    assert server.post("/dicom-events/dead-letters/retry", {"Broker": "broker"}) == {"Retried": 1}
    wait_until(lambda: len(hook.taken) == 12)
    assert server.wait_until(lambda: server.get("/dicom-events/dead-letters")["Total"] == 0)


def test_what_fails_too_often_is_dead_and_can_be_dropped(start_orthanc: StartOrthanc, hook: Hook) -> None:
    hook.answers = lambda event: 500 if event["data"]["counts"]["instances"] == 1 else 200
    script = script_with(SCRIPT, {"TRIES_OF_REFUSED": 2})
    server = start_orthanc(script, {"DicomEvents": {"Broker": over_webhook(hook)}, **NEVER_STABLE})
    server.store(make_study(instances=3))
    wait_until(lambda: len(hook.taken) == 2)
    letter = server.get("/dicom-events/dead-letters")["Items"][0]
    assert letter["Attempts"] == 2
    assert server.delete(f"/dicom-events/dead-letters/{letter['ID']}")["ID"] == letter["ID"]
    assert server.get("/dicom-events/dead-letters") == {"Total": 0, "Items": [], "Next": None}


@pytest.mark.parametrize("status", [302, 401, 503])
def test_a_webhook_that_redirects_refuses_us_or_is_down_is_waited_for(
    start_orthanc: StartOrthanc, hook: Hook, status: int
) -> None:
    hook.answers = lambda _event: status
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": over_webhook(hook)}, **NEVER_STABLE})
    server.store(make_study(instances=3))
    server.wait_for_log(f"broker broker is away, what happens meanwhile is kept: HTTP {status}")
    hook.answers = lambda _event: 200
    wait_until(lambda: len(hook.taken) == 3)
    assert set(hook.asked) == {"/hook?x=1"}
    assert server.get("/dicom-events/dead-letters")["Total"] == 0


def test_a_webhook_that_never_answers_delays_the_end_of_orthanc_by_four_seconds_at_most(
    start_orthanc: StartOrthanc, hook: Hook
) -> None:
    hang = threading.Event()
    hook.answers = lambda _event: 200 if hang.wait(60) else 500
    quiet = start_orthanc("import orthanc\n", NEVER_STABLE)
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": over_webhook(hook)}, **NEVER_STABLE})
    server.store(make_study(instances=3))
    wait_until(lambda: hook.asked)
    without = seconds_to_end(quiet)
    assert seconds_to_end(server) < without + 4
    hang.set()
