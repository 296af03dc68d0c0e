# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/uids.py, rules.py and outcomes.py: SOP classes and transfer syntaxes, in rules and in what nodes refuse."""

from __future__ import annotations

import json
import re
from typing import Any

import pydicom.uid
import pytest

from common.settings import SettingsError, read_settings
from forwarding.failures import explain_not_accepted, is_not_accepted
from forwarding.rules import Rule, has_kind
from forwarding.uids import SOP_CLASSES, TRANSFER_SYNTAXES, is_wanted, shown_uid
from tests.fakes import eventually
from tests.forwarding.unit.fake_forwarding import NAME, STUDY, Forwarding

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, J2K = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"
NO_CLASS = (
    f"Cannot C-Store an instance of SOPClassUID {CT}, the destination has not accepted any TransferSyntax for it."
)
OLD_NO_CLASS = f"Cannot transcode from {EXPLICIT} to one of [ ]"
NO_SYNTAX = f"Cannot transcode instance of SOPClassUID {CT} from {J2K} to one of [ 1.2.840.10008.1.2 {EXPLICIT} ]"


def test_keywords_are_those_of_the_standard() -> None:
    for keyword, uid in (SOP_CLASSES | TRANSFER_SYNTAXES).items():
        assert pydicom.uid.UID(uid).keyword == keyword
    assert shown_uid(CT) == f"CTImageStorage ({CT})"
    assert shown_uid("1.2.3") == "1.2.3"


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (["CTImageStorage"], [CT]),
        ([CT, "MRImageStorage"], [CT, MR]),
        (["!CTImageStorage"], [MR, "1.2.3", ""]),
        ([f"!{CT}", "!MRImageStorage"], ["1.2.3", ""]),
        (["MRImageStorage", "!CTImageStorage"], [MR]),
        (["1.2.3"], ["1.2.3"]),
        ([], [CT, MR, "1.2.3", ""]),
    ],
)
def test_what_is_named_is_wanted_and_what_has_a_mark_is_not(wanted: list[str], taken: list[str]) -> None:
    assert [uid for uid in (CT, MR, "1.2.3", "") if is_wanted(uid, wanted, SOP_CLASSES)] == taken


def test_both_conditions_of_a_rule_hold_for_an_instance_that_it_takes() -> None:
    rule = Rule(name="r", sop_classes=("CTImageStorage",), transfer_syntaxes=("!JPEG2000Lossless",))
    assert has_kind(rule, {"SopClassUid": CT, "TransferSyntax": EXPLICIT})
    assert not has_kind(rule, {"SopClassUid": CT, "TransferSyntax": J2K})
    assert not has_kind(rule, {"SopClassUid": MR, "TransferSyntax": EXPLICIT})
    assert has_kind(Rule(name="r"), {})


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"SOPClasses": ["CTImageStorag"]}, "R.SOPClasses: found .*CTImageStorag.*did you mean CTImageStorage?"),
        ({"SOPClasses": ["JPEG2000"]}, "R.SOPClasses: found"),
        ({"SOPClasses": []}, "R.SOPClasses: found"),
        ({"SOPClasses": ["!"]}, "R.SOPClasses: found"),
        ({"TransferSyntaxes": ["CTImageStorage"]}, "R.TransferSyntaxes: found"),
        ({"TransferSyntaxes": ["1.2.x"]}, "R.TransferSyntaxes: found"),
        ({"SopClasses": ["CTImageStorage"]}, "SopClasses"),
    ],
)
def test_a_name_that_is_no_keyword_and_no_uid_is_refused(section: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        read_settings(Rule, "R", {"R": {"Name": "r", **section}})


def test_what_a_node_cannot_take_is_said_in_the_words_of_dicom() -> None:
    assert all(map(is_not_accepted, (NO_CLASS, OLD_NO_CLASS, NO_SYNTAX, "has failed with DIMSE status 0x0122")))
    assert not any(map(is_not_accepted, ("DIMSE status 0x0111", "DUL Association Rejected", "")))
    for why in (NO_CLASS, OLD_NO_CLASS):
        said = explain_not_accepted("PACS", CT, EXPLICIT, why)
        assert said.endswith(f"the SOP class of CTImageStorage ({CT}) in ExplicitVRLittleEndian ({EXPLICIT})")
    assert "does not support the SOP class of" in explain_not_accepted("PACS", CT, EXPLICIT, "DIMSE status 0x0122")
    said = explain_not_accepted("PACS", CT, J2K, NO_SYNTAX)
    assert re.search(r"CTImageStorage .* in JPEG2000Lossless .*, only for ImplicitVRLittleEndian .*ExplicitVR", said)


def receive(forwarding: Forwarding, **classes: str) -> None:
    """A study arrives and becomes stable; instances by their SOP class."""
    for instance, sop_class in classes.items():
        forwarding.rest.receive(STUDY, instance, SopClassUid=sop_class, TransferSyntax=EXPLICIT)
    forwarding.rest.become_stable(STUDY)
    forwarding.turn()


def test_kinds_are_parted_and_what_is_not_accepted_waits_for_a_day(forwarding: Forwarding) -> None:
    forwarding.rest.answers["POST", "/modalities/PACS/echo"] = {}
    forwarding.start()
    receive(forwarding, i1=CT, i2=MR, i3=CT)
    forwarding.end("PACS-1", why=OLD_NO_CLASS)
    eventually(lambda: forwarding.sent()[1:] == [["i1", "i3"]])  # of one study one row at a time
    forwarding.end("PACS-2", why=OLD_NO_CLASS)
    eventually(lambda: forwarding.sent()[2:] == [["i2"]])
    forwarding.end("PACS-3")
    eventually(lambda: forwarding.states() == ["waiting", "done"])
    assert "accepts no presentation context" in forwarding.deliveries()[0]["Error"]
    for _ in range(23):
        forwarding.turn(3600)
    assert len(forwarding.sent()) == 3
    forwarding.turn(3601)
    forwarding.turn()
    assert forwarding.sent()[3:] == [["i1", "i3"]]


def test_a_node_that_was_away_and_answers_does_not_get_sooner_what_it_cannot_take(forwarding: Forwarding) -> None:
    forwarding.start()
    receive(forwarding, i1=CT)
    forwarding.end("PACS-1", why=NO_CLASS)
    eventually(lambda: forwarding.states() == ["waiting"])
    forwarding.receive("b2", "i9")
    forwarding.end("PACS-2", why="Cannot connect")
    eventually(lambda: forwarding.states() == ["waiting", "waiting"])
    forwarding.turn()
    forwarding.rest.answers["POST", "/modalities/PACS/echo"] = {}
    forwarding.turn(2)
    forwarding.turn(2)
    assert forwarding.sent() == [["i1"], ["i9"], ["i9"]]


def test_rules_by_kind_ask_for_what_was_not_handed_over(forwarding: Forwarding) -> None:
    rules = [{"Name": "ct", "SOPClasses": ["CTImageStorage"], "Destinations": ["PACS"]}]
    forwarding.start(Rules=rules)
    tags = json.dumps({"0010,0020": "P", "0020,000d": "1.2", "0020,000e": "1.2.3"})
    dicom = forwarding.standin.object("DicomInstance", GetInstanceAdvancedJson=tags, HasInstanceMetadata=0)
    forwarding.standin.callback("RegisterOnStoredInstanceCallback")(dicom, "i1")  # as in a row of an older version
    receive(forwarding, i1=CT, i2=MR)
    assert forwarding.sent() == [["i1"]]
    [shown] = forwarding.script.get(f"{NAME}/rules")["Rules"]
    assert (shown["SOPClasses"], shown["TransferSyntaxes"]) == (["CTImageStorage"], [])
