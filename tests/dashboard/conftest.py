# SPDX-License-Identifier: AGPL-3.0-or-later
"""One browser, and one Orthanc with all scripts, for all that tests/dashboard/ looks at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from testing.dicom import make_study, pydicom_files
from testing.pytest_plugin import StartOrthanc
from tests.brokers import RabbitServer
from tests.dashboard.helpers import AWAY_NAME, SECTIONS, Pair, Watched, c_move, chromium, combine, deidentify, letters
from tests.dicom_events.brokers.helpers import RabbitConsumer, over_rabbit

CT = {"Query": {"ModalitiesInStudy": "CT"}}


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
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A RabbitMQ whose queue takes three messages, and refuses more as long as the policy `full` is there."""
    server = RabbitServer(tmp_path_factory.mktemp("rabbit") / "server")
    try:
        server.start()
        limits = json.dumps({"max-length": 3, "overflow": "reject-publish"})
        server.control("set_policy", "full", "^queue-", limits, "--apply-to", "queues")
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def pair(
    start_orthanc_for_module: StartOrthanc, tmp_path_factory: pytest.TempPathFactory, rabbit: RabbitServer
) -> Pair:
    """An Orthanc with all scripts and real studies, a destination that works, one that does not, and a broker that refuses."""
    works = start_orthanc_for_module(None, {"StableAge": 3600}, aet="PACS")
    dead = start_orthanc_for_module(None, {"StableAge": 3600}, aet=AWAY_NAME, start=False)
    RabbitConsumer(rabbit, "orthanc")
    rules = [
        {"Name": "everything", "Destinations": ["PACS", AWAY_NAME]},
        {**{"Name": "the ward's CT", "Origin": {"RemoteAET": ["WARD"]}}, **CT, "Destinations": ["PACS"]},
    ]
    configuration: dict[str, Any] = {
        **{**SECTIONS, "StableAge": 1, "Name": "Radiology", "DicomAlwaysAllowMove": True},
        "DicomModalities": {"PACS": works.as_modality(), AWAY_NAME: dead.as_modality()},
        # So soon given up that a person is needed while the test runs.
        "AutoForwardModality": {"RuleMode": "all", "Rules": rules, "Retry": {"GiveUpHours": 0}},
        "DicomEvents": {"Brokers": {"rabbit": over_rabbit(rabbit, "orthanc")}},
    }
    main = start_orthanc_for_module(combine(tmp_path_factory.mktemp("combined") / "all.py"), configuration)
    main.store([path for path in pydicom_files() if path.name in ("CT_small.dcm", "MR_small.dcm")])
    main.store(make_study(instances=3, patient_id="MANY"))

    def is_settled() -> bool:
        """One delivery is given up at once; the others wait, as the destination is known to be away then."""
        places = {each["Name"]: each["Totals"] for each in main.get("/dashboard/summary")["Destinations"]}
        return len(places) == 2 and places["PACS"]["done"] >= 3 and places[AWAY_NAME]["dead"] > 0

    main.wait_until(is_settled, what="forward to one destination and give up what goes to the other", timeout=90)
    [study] = main.post("/tools/find", {"Level": "Study", "Query": {"PatientID": "MANY"}})
    deidentify(main, study)
    c_move(main, study, "PACS")
    c_move(main, study, AWAY_NAME)  # it is away
    main.wait_until(lambda: letters(main) > 2, what="have dead letters", timeout=90)
    return Pair(main, works, dead, rabbit)
