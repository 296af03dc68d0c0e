# SPDX-License-Identifier: AGPL-3.0-or-later
"""One browser, and one Orthanc with all scripts, for all that tests/dashboard/ looks at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from testing.dicom import make_study, pydicom_files
from testing.pytest_plugin import StartOrthanc
from tests.dashboard.helpers import AWAY_NAME, SECTIONS, Pair, Watched, chromium, combine


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def seen(browser: Browser) -> Iterator[Watched]:
    """A page; the test fails for an error in it."""
    watched = Watched(browser)
    yield watched
    watched.page.context.close()
    assert watched.errors == []


@pytest.fixture(scope="module")
def pair(start_orthanc_for_module: StartOrthanc, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """An Orthanc with all scripts and real studies, whose destination works, and one that does not."""
    works = start_orthanc_for_module(None, {"StableAge": 3600}, aet="PACS")
    dead = start_orthanc_for_module(None, {"StableAge": 3600}, aet=AWAY_NAME, start=False)
    configuration: dict[str, Any] = {
        **SECTIONS,
        "StableAge": 1,
        "Name": "Radiology",
        "DicomModalities": {"PACS": works.as_modality(), AWAY_NAME: dead.as_modality()},
        # So soon given up that a person is needed while the test runs.
        "AutoForwardModality": {"Destinations": ["PACS", AWAY_NAME], "Retry": {"GiveUpHours": 0}},
    }
    main = start_orthanc_for_module(combine(tmp_path_factory.mktemp("combined") / "all.py"), configuration)
    main.store([path for path in pydicom_files() if path.name in ("CT_small.dcm", "MR_small.dcm")])
    main.store(make_study(instances=3, patient_id="MANY"))

    def is_settled() -> bool:
        """One delivery is given up at once; the others wait, as the destination is known to be away then."""
        places = {each["Name"]: each["Totals"] for each in main.get("/dashboard/summary")["Destinations"]}
        return len(places) == 2 and places["PACS"]["done"] == 3 and places[AWAY_NAME]["dead"] > 0

    main.wait_until(is_settled, what="forward to one destination and give up what goes to the other", timeout=60)
    return Pair(main, works, dead)
