# SPDX-License-Identifier: AGPL-3.0-or-later
"""anonymize_series.py against PS3.15 Table E.1-1: an image with all its attributes, through Orthanc."""

from __future__ import annotations

import pytest

from testing.pytest_plugin import StartOrthanc
from testing.standin import StandIn
from tests.anonymize_series.helpers import SCRIPT, anonymize, read, section
from tests.anonymize_series.profile_image import BYTES, DATE, image_with_all, places, wrong_with
from tests.anonymize_series.profile_image import read as read_content


def actions() -> dict[int, str]:
    standin = StandIn("7.1", section())
    with standin.installed():
        return dict(standin.load(SCRIPT).ACTIONS)


# Without SelectorUNValue, which only hanging protocols have: Orthanc 1.12.7 answers 500 to /anonymize of a file with it.
ACTIONS = {tag: action for tag, action in actions().items() if tag != 0x0072006D}


@pytest.mark.parametrize("modality", ["CT", "US"])
def test_a_copy_has_of_each_attribute_what_the_basic_profile_asks(start_orthanc: StartOrthanc, modality: str) -> None:
    original = image_with_all(ACTIONS, Modality=modality)
    server = start_orthanc(SCRIPT, section())
    series = server.store(original)[0]["ParentSeries"]
    done = anonymize(server, series, "strict")
    assert (done["State"], done["HeldBack"]) == ("done", 0), server.get("/anonymize-series/held")
    copy = read(server, done["Copies"][0])
    assert wrong_with(copy, read_content(original), ACTIONS) == []
    for _, dataset, _ in places(copy, read_content(original)):
        assert not [each for each in dataset if each.tag.is_private or each.tag.group in (0x5000, 0x6000)]
        assert DATE not in str(dataset)
        assert BYTES.decode() not in str(dataset)
