# SPDX-License-Identifier: AGPL-3.0-or-later
"""Brokers that hang are one line each in Orthanc's log, also where `event_dispatcher` logs all that any library says."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.dicom_events.brokers.helpers import AWS_ENVIRONMENT, Hook, brokers_of, over_webhook
from tests.dicom_events.helpers import NEVER_STABLE, ROOT, SCRIPT
from tests.scripts import combine_scripts

LIBRARIES = ("urllib3", "botocore", "requests", "Starting new HTTP", "connectionpool", "Traceback")
OWN = """
import logging
import sys
sys.path.insert(0, "FOLDER")
import event_dispatcher
import orthanc
def log(event, session):
    logging.getLogger("urllib3.own").warning("a line of a user")
event_dispatcher.register_event_handlers({orthanc.ChangeType.NEW_STUDY: log}, orthanc, None)
logging.getLogger().setLevel(logging.DEBUG)
"""


def test_a_broker_that_hangs_is_one_line_until_it_answers(
    start_orthanc: StartOrthanc, hook: Hook, tmp_path: Path
) -> None:
    goes_on = threading.Event()

    def answer(_event: dict[str, Any]) -> int:
        if not goes_on.is_set():
            time.sleep(1.2)
        return 200

    hook.answers = answer
    own = tmp_path / "own.py"
    own.write_text(OWN.replace("FOLDER", str(ROOT)))
    script = combine_scripts(own, SCRIPT.parent, to=tmp_path / "combined.py", warns=True)
    brokers = {
        "hook": over_webhook(hook, WebhookConfig={"Timeout": 0.5}),
        "aws": {
            "Type": "sqs-sns",
            "SNSConfig": {"TopicArn": "arn:aws:sns:eu-west-1:123456789012:x", "EndpointURL": "http://127.0.0.1:1"},
        },
    }
    settings = {"DicomEvents": {"Brokers": brokers}, **NEVER_STABLE}
    server = start_orthanc(script, settings, environment=AWS_ENVIRONMENT, verbose=True)
    server.store(make_study(instances=3))
    for name in brokers:
        server.wait_for_log(f"broker {name} is away")
    server.wait_until(lambda: len(hook.asked) >= 4, 60, "the hook to be tried again")
    assert brokers_of(server)["hook"]["State"] == "away"
    goes_on.set()
    server.wait_for_log("broker hook is back", 60)
    server.wait_until(lambda: not brokers_of(server)["hook"]["Backlog"])
    server.wait_for_log("a line of a user")
    lines = server.log.splitlines()
    assert sum("broker hook is" in line for line in lines) == 2
    assert sum("broker aws is" in line for line in lines) == 1
    own_lines = (
        "a line of a user",
        "is away, what happens",
        " HttpClient.cpp:",
        " main.cpp:",
    )  # the last two are Orthanc's own
    assert [line for line in lines if any(word in line for word in LIBRARIES) and not any(each in line for each in own_lines)] == []  # fmt: skip # noqa: E501
