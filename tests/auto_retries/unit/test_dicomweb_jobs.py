# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_retries without a server: jobs of the DICOMweb plugin, which show late what they send, and lie when resubmitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.auto_retries.unit.test_guards import Retries
from tests.fakes import Clock, FakeOrthanc, Script, eventually

STOW = "/dicom-web/servers/CLOUD/stow"
CONTENT = {"Server": "CLOUD", "Resources": {"Instances": ["1", "2"], "Studies": ["a1"]}, "InstancesCount": "2"}


@pytest.fixture
def retries(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Retries:
    found = Retries(start, rest, clock, orthanc_standin)
    orthanc_standin.answers["GET", "/dicom-web/servers?expand"] = {"CLOUD": {"Url": "http://cloud/", "Username": None}}
    found.start()
    found.submit("j1", Type="DicomWebStowClient", Content={})
    return found


def fail(retries: Retries, content: dict[str, Any]) -> None:
    retries.rest.jobs["j1"]["Content"] = content
    retries.fail("j1")
    eventually(retries.rows)


def test_what_a_job_shows_at_its_end_only_is_sent_anew(retries: Retries) -> None:
    fail(retries, CONTENT)
    retries.wait(40)
    assert retries.rest.asked("POST", STOW) == [{"Resources": ["1", "2"], "Synchronous": False, "Priority": 3}]
    assert retries.resubmitted("j1") == 0


@pytest.mark.parametrize(("more", "again"), [({}, 1), ({"NetworkSizeMB": "0"}, 0)], ids=["nothing read", "read"])
def test_a_job_that_shows_nothing_is_resubmitted_only_if_it_has_read_nothing(
    retries: Retries, more: dict[str, str], again: int
) -> None:
    fail(retries, {"InstancesCount": "2", **more})
    retries.wait(40)
    assert retries.resubmitted("j1") == again
    eventually(lambda: [row["State"] for row in retries.rows()] == ["sending" if again else "dead"])


def test_a_person_who_has_just_resubmitted_it_is_not_waited_for(retries: Retries) -> None:
    fail(retries, CONTENT)
    retries.rest.jobs["j1"] |= {"State": "Running", "ErrorCode": 0}
    retries.wait(40)
    assert len(retries.rest.asked("POST", STOW)) == 1


def test_a_person_who_resubmits_it_does_not_end_it(retries: Retries) -> None:
    fail(retries, CONTENT)
    retries.succeed("j1")
    retries.wait(40)
    assert len(retries.rest.asked("POST", STOW)) == 1
