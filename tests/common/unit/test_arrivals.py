# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/arrivals.py: what is known of an instance without asking Orthanc."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from testing.dicom import orthanc_identifier
from testing.standin import StandIn


@pytest.fixture
def module(source: Callable[[str], ModuleType]) -> Any:
    return source("common.arrivals")


@pytest.fixture
def dicom(orthanc_standin: StandIn) -> Callable[..., Any]:
    """What OnStoredInstance hands over."""

    def make(
        patient: str | None = "P", study: str = "1.2", series: str = "1.2.3", content: Any = b"x", **origin: str
    ) -> Any:
        tags = {"0010,0020": patient, "0020,000d": study, "0020,000e": series}
        return orthanc_standin.object(
            "DicomInstance",
            GetInstanceAdvancedJson=json.dumps(tags),
            HasInstanceMetadata=lambda name: int(name in origin),
            GetInstanceMetadata=lambda name: origin[name],
            GetInstanceData=content,
        )

    return make


def test_the_identifiers_of_its_parents_are_orthancs_own(module: Any, dicom: Callable[..., Any]) -> None:
    arrivals = module.Arrivals(digests=False)
    for patient in ("P1", " P1"):  # two, to Orthanc
        arrivals.stored(dicom(patient, "1.2", "1.2.3"), "i1")
        assert arrivals.parents("i1") == {
            "Patient": orthanc_identifier(patient),
            "Study": orthanc_identifier(patient, "1.2"),
            "Series": orthanc_identifier(patient, "1.2", "1.2.3"),
        }
        assert arrivals.get("i1").uids == {"Patient": patient, "Study": "1.2", "Series": "1.2.3"}


@pytest.mark.parametrize("patient", ["Müller", "\u5c71"])
def test_of_values_that_are_not_ascii_no_identifier_is_made_up(
    module: Any, dicom: Callable[..., Any], patient: str
) -> None:
    arrivals = module.Arrivals(digests=False)
    arrivals.stored(dicom(patient), "i1")
    assert arrivals.parents("i1") is None
    assert arrivals.get("i1").uids["Patient"] == patient


def test_where_it_came_from_is_kept_and_what_is_empty_is_left_out(module: Any, dicom: Callable[..., Any]) -> None:
    arrivals = module.Arrivals(digests=False)
    arrivals.stored(dicom(Origin="DicomProtocol", RemoteAET="CT1", RemoteIP="", Other="x", ModifiedFrom="i0"), "i1")
    assert arrivals.get("i1").origin == {"Origin": "DicomProtocol", "RemoteAET": "CT1", "ModifiedFrom": "i0"}
    arrivals.stored(dicom(Origin="RestApi"), "i2")
    assert arrivals.get("i2").origin == {"Origin": "RestApi"}
    assert arrivals.get("i1").origin["Origin"] == "DicomProtocol"


def test_the_content_is_digested_where_an_instance_may_come_again(module: Any, dicom: Callable[..., Any]) -> None:
    plain, digesting = module.Arrivals(digests=False), module.Arrivals(digests=True)
    for arrivals in (plain, digesting):
        arrivals.stored(dicom(content=b"one"), "i1")
        arrivals.stored(dicom(content=b"two"), "i1")  # the same instance, overwritten
    assert plain.get("i1").digest == ""
    assert digesting.get("i1").digest == hashlib.blake2b(b"two", digest_size=16).hexdigest()


def test_an_instance_is_known_also_if_others_are_stored_while_its_content_is_digested(
    module: Any, dicom: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrivals share is forgotten from time to time, by whichever of Orthanc's threads comes then."""
    monkeypatch.setattr(module, "REMEMBERED", 10)
    arrivals = module.Arrivals(digests=True)

    def content() -> bytes:
        if arrivals.get("other") is None:
            arrivals.stored(dicom(series="1.7"), "before")
            arrivals.stored(dicom(series="1.8"), "other")
        return b"x"

    arrivals.stored(dicom(content=content), "i1")
    assert arrivals.get("i1").uids["Series"] == "1.2.3"


def test_what_is_forgotten_or_was_never_there_is_not_known(module: Any, dicom: Callable[..., Any]) -> None:
    arrivals = module.Arrivals(digests=False)
    arrivals.stored(dicom(None), "i1")
    arrivals.forget("i1")
    arrivals.forget("i1")
    assert (arrivals.get("i1"), arrivals.parents("i1"), arrivals.parents("i2")) == (None, None, None)


def test_the_oldest_are_forgotten_and_what_came_again_is_new(
    module: Any, dicom: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 30)
    arrivals = module.Arrivals(digests=False)
    for number in range(30):
        arrivals.stored(dicom(series=f"1.{number}"), f"i{number}")
    arrivals.stored(dicom(series="1.0"), "i0")
    arrivals.stored(dicom(series="1.99"), "i99")
    assert arrivals.get("i0").uids["Series"] == "1.0"
    assert arrivals.get("i1") is None
    assert arrivals.get("i2").uids["Series"] == "1.2"
