# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies without a server: which destinations `OnlyIfAt` names, and that a wrong name deletes nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.fakes import eventually
from tests.purge_old_studies.unit.elsewhere_helpers import AT_PACS, Elsewhere
from tests.purge_old_studies.unit.elsewhere_helpers import purging as purging  # a fixture
from tests.purge_old_studies.unit.test_guards import NAME, RULE, purge


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("PACSS", "Orthanc knows no destination 'PACSS' (did you mean PACS?), allowed: PACS, VNA, research"),
        ("peer:PACS", "Orthanc knows no destination 'peer:PACS'"),
        ("X", "Orthanc knows no destination 'X', allowed: PACS, VNA, research"),
    ],
)
def test_a_name_that_orthanc_does_not_know_deletes_nothing(purging: Elsewhere, name: str, why: str) -> None:
    """The error has the name of what was written: a key of a rule, a parameter of a request."""
    purging.has("PACS", purging.found)
    purging.start(Rules=[{**RULE, "OnlyIfAt": ["PACS", name]}])
    line, why = f"purge_old_studies: PurgeOldStudies.Rules[0].OnlyIfAt: {why}", f"only-if-at: {why}"
    eventually(lambda: any(level == "error" and text.startswith(line) for level, text in purging.standin.logs))
    for more in ({}, {"dry-run": True}):
        answer = purge(purging, **{"only-if-at": [name, "PACS"], **more})
        assert (answer.status, answer.json()["Message"][: len(why)]) == (400, why)
    purging.looked()
    purging.clock.advance(180)
    eventually(lambda: any("rule old does not run this time: OnlyIfAt" in text for _, text in purging.standin.logs))
    eventually(lambda: purging.script.get(f"{NAME}/status")["Rules"][0]["Last"])
    assert purging.script.get(f"{NAME}/status")["Rules"][0]["Last"]["State"] == "not run"
    assert purging.deleted() == []
    assert purging.questions == []


def test_a_name_of_several_destinations_says_which_one_it_means(purging: Elsewhere) -> None:
    purging.rest.answers |= {
        ("GET", "/peers"): ["PACS", "research"],
        ("GET", "/dicom-web/servers"): ["PACS"],
    }
    purging.has("PACS", purging.found)
    purging.start()
    answer = purge(purging, **AT_PACS)
    allowed = "allowed: modality:PACS, peer:PACS, dicomweb:PACS"
    why = f"only-if-at: 'PACS' is the name of several destinations, {allowed}"
    assert (answer.status, answer.json()["Message"]) == (400, why)
    assert purge(purging, **{"only-if-at": ["modality:PACS"]}).json()["Deleted"] == 3


def test_a_server_that_the_plugin_has_not_read_yet_is_known_by_the_configuration(purging: Elsewhere) -> None:
    purging.rest.answers["GET", "/dicom-web/servers"] = []
    cloud = {"DicomWeb": {"Servers": {"cloud": ["https://cloud.example.org/"]}}}
    purging.start(cloud, Rules=[{**RULE, "OnlyIfAt": ["cloud"]}])
    eventually(lambda: purging.rest.asked("GET", "/dicom-web/servers"))
    assert [text for level, text in purging.standin.logs if level == "error"] == []


def test_where_images_may_be_overwritten_no_proof_counts(purging: Elsewhere) -> None:
    purging.has("PACS", purging.found)
    purging.start({"OverwriteInstances": True})
    answer = purge(purging, **AT_PACS)
    assert answer.status == 400
    assert answer.json()["Message"].startswith('only-if-at: not allowed where "OverwriteInstances" is on')
    assert purging.deleted() == []


def test_a_name_that_is_gone_when_it_is_asked_keeps_all(purging: Elsewhere) -> None:
    answers = [["PACS"], ["PACS"], ["OTHER"]]
    purging.rest.answers["GET", "/modalities"] = lambda *_: answers.pop(0) if len(answers) > 1 else answers[0]
    purging.has("PACS", purging.found)
    purging.start()
    assert len(purge(purging, **AT_PACS).json()["Kept"]) == 3
    assert purging.deleted() == []
    assert purging.questions == []


def test_a_proof_needs_destinations(purging: Elsewhere) -> None:
    purging.start()
    assert purge(purging, proof="C-FIND").json()["Message"] == "proof needs only-if-at"
    for value in ([], ["PACS", ""], "PACS"):
        assert purge(purging, **{"only-if-at": value}).status == 400
    assert purge(purging, **AT_PACS, proof="QIDO").status == 400
    assert purging.deleted() == []


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"Proof": "C-FIND"}, "Rules[0].Proof: only a rule with OnlyIfAt has it"),
        ({"OnlyIfAt": [" "]}, 'Rules[0].OnlyIfAt: found [" "], allowed: names of destinations'),
        ({"OnlyIfAt": ["PACS"], "Proof": "QIDO"}, 'Rules[0].Proof: found "QIDO", allowed: one of'),
        ({"OnlyIfAt": "PACS"}, 'Rules[0].OnlyIfAt: found "PACS", allowed: a list'),
    ],
)
def test_a_rule_that_says_it_wrongly_is_an_error(source: Any, more: dict[str, Any], why: str) -> None:
    settings = source("purge_old_studies.settings")
    with pytest.raises(settings.SettingsError, match=re.escape(f"PurgeOldStudies.{why}")):
        settings.read_configuration({"PurgeOldStudies": {"Rules": [{**RULE, **more}]}})
