# SPDX-License-Identifier: AGPL-3.0-or-later
"""Names of destinations as people mistake them: the log says what was meant, and to whom everything goes without a section."""

from __future__ import annotations

import pytest

from tests.forwarding.unit.fake_forwarding import Forwarding

NODE = {"AET": "PACS1", "Host": "127.0.0.1", "Port": 104}


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("PACS1", "PACS1 (the AE title of main: write main)"),
        ("Main", "Main (did you mean main?)"),
        ("main ", '"main " (did you mean main?)'),
        ("OTHER", "OTHER"),
    ],
)
def test_a_name_that_orthanc_does_not_know_comes_with_the_one_that_was_meant(
    forwarding: Forwarding, written: str, named: str
) -> None:
    forwarding.rest.known = {"main": NODE}
    forwarding.start(Destinations=[written])
    forwarding.turn()
    forwarding.standin.assert_logged(
        f"Destinations names {named}, which Orthanc does not know; known are: main.", "error"
    )


def test_alternates_of_a_name_that_orthanc_does_not_know_are_named(forwarding: Forwarding) -> None:
    forwarding.start(Destinations=["PACS"], Alternates={"PASC": ["VNA"]})
    forwarding.turn()
    forwarding.standin.assert_logged(
        "Alternates are for PASC, which Orthanc does not know (yet); known are: PACS, VNA. These alternates have no effect.",
        "warning",
    )


@pytest.mark.parametrize("beside", [{}, {"AutoForwardPeer": {"Destinations": []}}])
def test_without_a_section_the_log_says_to_whom_every_study_goes(
    forwarding: Forwarding, beside: dict[str, object]
) -> None:
    forwarding.script = forwarding._start("auto_forward_modality", beside)
    forwarding.turn()
    forwarding.standin.assert_logged(
        "the configuration has no section AutoForwardModality, so every study is sent to every destination that Orthanc "
        "knows: PACS, VNA",
        "warning",
    )


def test_with_a_section_that_chooses_all_it_says_nothing(forwarding: Forwarding) -> None:
    forwarding.start(Destinations=None)
    forwarding.turn()
    forwarding.standin.assert_not_logged("has no section")
