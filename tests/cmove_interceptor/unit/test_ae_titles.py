# SPDX-License-Identifier: AGPL-3.0-or-later
"""cmove_interceptor: the AE titles in its rules, and of its sources, compare as Orthanc compares them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.cmove_interceptor.unit.test_fetched import Fetching
from tests.fakes import FakeOrthanc, Script

FIELDS = {
    "Level": "STUDY", "PatientID": "", "AccessionNumber": "", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "",
    "SOPInstanceUID": "", "OriginatorAET": "ASKER", "OriginatorID": 7, "SourceAET": "ORTHANC", "TargetAET": "PACS",
}  # fmt: skip


@pytest.mark.parametrize("key", ["TargetAETs", "OriginatorAETs"])
@pytest.mark.parametrize("strict", [False, True])
def test_a_rule_names_ae_titles(
    start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn, key: str, strict: bool
) -> None:
    """What the rule does not fit is moved, and there is nothing to move."""
    rule = {"Mode": "notify", key: ["pac*" if key == "TargetAETs" else "ask*"]}
    start("cmove_interceptor", {"CMoveInterceptor": {"Rules": [rule]}, "StrictAetComparison": strict})
    [callback, *_] = orthanc_standin.registered["RegisterMoveCallback"][-1]
    if strict:
        with pytest.raises(Exception, match="nothing here is what the request means"):
            callback(**FIELDS)
    else:
        callback(**FIELDS)
    assert len(rest.asked("POST", "/tools/find")) == strict


@pytest.mark.parametrize("strict", [False, True])
def test_what_a_source_sent_is_known_by_its_ae_title(
    start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn, strict: bool
) -> None:
    fetching = Fetching(start, rest, orthanc_standin)
    section: dict[str, Any] = {"Mode": "fetch", "Fetch": {"From": ["modality:far"], "Keep": False}}
    fetching.script = start("cmove_interceptor", {"CMoveInterceptor": section, "StrictAetComparison": strict})
    fetching.has("1.1", "a")
    fetching.meanwhile = lambda: fetching.arrives("1.1", "b", sender="far")
    fetching.move()
    assert fetching.deleted() == (["a"] if strict else ["a", "b"])
