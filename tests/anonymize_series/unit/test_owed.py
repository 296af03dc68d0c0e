# SPDX-License-Identifier: AGPL-3.0-or-later
"""`POST /anonymize-series/owed`: also what Orthanc has stored, and the script has still to read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes import FakeOrthanc, Script, eventually

NAME = "/anonymize-series"
RULES = {"Secret": "0123456789abcdef" * 4, "Recipes": {"all": {}}, "Rules": [{"Destinations": ["all"]}]}


def owed(script: Script) -> Any:
    answer = script.post(f"{NAME}/owed", {"Resources": ["a1"]})
    return answer.json()["Owed"] if answer.status == 200 else answer.json()["Message"]


@pytest.mark.parametrize("is_all", [True, False], ids=["a page", "more than a page"])
def test_what_orthanc_has_stored_and_not_reported_yet_is_owed(
    start: Callable[..., Script], rest: FakeOrthanc, is_all: bool
) -> None:
    script = start("anonymize_series", {"AnonymizeSeries": RULES})
    eventually(lambda: owed(script) == [])
    who_asks = threading.current_thread()

    def answer(*_: Any) -> Any:  # the thread of the script has not looked again yet
        change = {
            "Seq": 9,
            "ChangeType": "NewInstance",
            "ResourceType": "Instance",
            "ID": "1",
            "Date": "20240101T000000",
        }
        asks = threading.current_thread() is who_asks
        return {"Changes": [change] if asks else [], "Last": 9 if asks else 0, "Done": is_all or not asks}

    rest.studies["a1"] = ["1"]
    rest.answers["GET", "/changes"] = answer
    assert owed(script) == (["a1"] if is_all else "anonymize_series has still to read what arrived")
