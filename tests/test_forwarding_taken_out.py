# SPDX-License-Identifier: AGPL-3.0-or-later
"""What waits for a destination that a person has taken out of the configuration is held, neither sent nor dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.constants import QUICK, script_with

NODES = script_with(Path(__file__).parent.parent / "auto_forward_modality.py", QUICK)


@pytest.mark.parametrize(
    "after",
    [
        {"Destinations": ["PACS"]},
        {"Destinations": []},
        {"Rules": []},
        {"Rules": [{"Name": "a", "Destinations": ["PACS"]}]},
        {"Destinations": ["WRONG"], "Rules": [{"Name": "a", "Destinations": ["PACS"]}]},
    ],
    ids=str,
)
def test_nothing_goes_to_a_destination_that_the_configuration_names_no_more_until_a_person_says_so(
    start_orthanc: StartOrthanc, after: dict[str, Any]
) -> None:
    wrong = start_orthanc(aet="WRONG", start=False)
    nodes = {"WRONG": wrong.as_modality(), "PACS": ["PACS", "127.0.0.1", 1]}
    here = start_orthanc(NODES, {"DicomModalities": nodes, "AutoForwardModality": {}}, aet="HERE")
    here.store_scu(make_study(instances=2))
    here.wait_until(
        lambda: here.get("/auto-forward-modality/deliveries", destination="WRONG", state="waiting")["Total"],
        what="wait",
    )
    here.stop()
    wrong.start()
    here.configuration["AutoForwardModality"] = after
    here.start()
    here.wait_for_log("1 deliveries wait for WRONG, which the configuration names no more, and are held")
    here.wait_until(
        lambda: (
            here.get("/auto-forward-modality/deliveries", destination="PACS")["Items"][0]["Attempts"] > 2
            or after in ({"Destinations": []}, {"Rules": []})
        ),
        what="go on with others",
    )
    assert here.get("/auto-forward-modality/destinations")["WRONG"]["Paused"]
    assert wrong.get("/instances") == []
    here.post("/auto-forward-modality/destinations/WRONG/resume")
    here.wait_until(lambda: len(wrong.get("/instances")) == 2, what="send what was held")


def test_what_a_person_sent_goes_to_a_destination_that_no_rule_names(start_orthanc: StartOrthanc) -> None:
    other = start_orthanc(aet="OTHER", start=False)
    section: dict[str, Any] = {"Destinations": []}
    here = start_orthanc(
        NODES, {"DicomModalities": {"OTHER": other.as_modality()}, "AutoForwardModality": section}, aet="HERE"
    )
    here.store(make_study(instances=2))
    here.post("/auto-forward-modality/send", {"Resource": here.get("/studies")[0], "Destinations": ["OTHER"]})
    here.kill()
    other.start()
    here.start()
    here.wait_until(lambda: len(other.get("/instances")) == 2, what="send")
