# SPDX-License-Identifier: AGPL-3.0-or-later
"""cmove_interceptor.py: a configuration that is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from testing.standin import StandIn
from tests.cmove_interceptor.helpers import SCRIPT


@pytest.mark.parametrize(
    "section",
    [
        {"Mode": "relay"},
        {"Notify": [{}]},
        {"Notify": [{"Url": "ftp://x/"}]},
        {"Notify": [{"Url": "http://{TargetAET}/x"}]},
        {"Notify": [{"Url": "http://host:{OriginatorID}/x"}]},
        {"Notify": [{"Url": "{Level}://host/x"}]},
        {"Notify": [{"Url": "http://user:secret@host/x"}]},
        {"Notify": [{"Url": "http://host/{PatientName}"}]},
        {"Notify": [{"Url": "http://host/{PatientID"}]},
        {"Notify": [{"Url": "http://host/a b"}]},
        {"Notify": [{"Url": "http://host/{State}"}]},
        {"Notify": [{"Url": "http://host/", "Body": {"a": "{X}"}, "Method": "POST"}]},
        {"Notify": [{"Url": "http://host/", "Body": {}}]},
        {"Notify": [{"Url": "http://host/", "Method": "PUT"}]},
        {"Notify": [{"Url": "http://host/", "Headers": {"A": "b\r\nC: d"}}]},
        {"Notify": [{"Url": "http://host/", "When": "after", "Required": True}]},
        {"Notify": [{"Url": "https://host/", "CaFile": "/nowhere.pem"}]},
        {"Notify": [{"Url": "http://host/a"}, {"Url": "http://HOST/b", "When": "after"}]},
        {"Notify": [{"Url": "http://host/a", "Name": "a"}, {"Url": "http://other/", "Name": "a"}]},
        {"Notify": [{"Url": "http://host/a", "Name": "a\nb"}]},
        {"Notify": [{"Url": "http://host/a", "Name": ""}]},
        {"Rules": [{"Mode": "notify", "Identifiers": {"PatientName": "A"}}]},
        {"Mode": "fetch"},
        {"Mode": "fetch", "Fetch": {"From": ["PACS"]}},
    ],
    ids=json.dumps,
)
def test_a_wrong_configuration_is_told_and_leaves_orthancs_own_move_unless_it_holds_moves_back(
    orthanc_standin: StandIn, section: dict[str, Any]
) -> None:
    orthanc_standin.configuration = {"CMoveInterceptor": section}
    orthanc_standin.load(SCRIPT)
    answer = orthanc_standin.http("GET", "/cmove-interceptor/status")
    assert answer.status == 503
    assert any(level == "error" for level, _ in orthanc_standin.logs)
    assert "secret" not in str(orthanc_standin.logs) + answer.text
    holds_back = any(text in json.dumps(section) for text in ('"Required": true', '"notify"'))
    assert any("Move" in name for name in orthanc_standin.registered) == holds_back
