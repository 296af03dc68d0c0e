# SPDX-License-Identifier: AGPL-3.0-or-later
"""A large outbox takes long to open: no callback waits for it, and no event is lost that comes before it is open."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testing.dicom import make_study, orthanc_identifier
from testing.standin import StandIn
from tests.fakes import REAL_EVENT, FakeOrthanc, eventually

IMAGES = 60
CONFIGURATION = {"StorageDirectory": "db", "DicomEvents": {"Events": {"UpdatedPeers": True, "OrthancStopped": True}}}


class Opening:
    """The script before ORTHANC_STARTED; its outbox opens when `release` is set."""

    def __init__(self, source: Callable[[str], Any], standin: StandIn, folder: Path, patch: Any) -> None:
        self._source, self.folder, self.release = source, folder / "db", REAL_EVENT()
        module, release = source("dicom_events.service"), self.release
        plain = source("dicom_events.pipeline").Pipeline

        def slow(*arguments: Any) -> Any:
            release.wait()
            return plain(*arguments)

        patch.setattr(module, "Pipeline", slow)
        standin.configuration = CONFIGURATION
        standin.registered.clear()  # by the package
        self._orthanc: Any = standin.module
        self.service = module.Service()
        self.service.register()

    def change(self, name: str) -> None:
        self.service.on_change(int(getattr(self._orthanc.ChangeType, name)), -1, "")

    def store(self, seed: int) -> list[str]:
        """Report the images of a study; return their identifiers."""
        stored = []
        for data in make_study(instances=IMAGES, seed=seed):
            uids = self._source("dicom_events.events").identifiers_of_file(data)
            dicom = SimpleNamespace(
                GetInstanceSize=lambda data=data: len(data),
                GetInstanceData=lambda data=data: data,
                GetInstanceMetadata={"RemoteIP": "127.0.0.1", "ReceptionDate": "20260101T000000"}.get,
                GetInstanceRemoteAet=lambda: "CT1",
                GetInstanceOrigin=lambda: 2,
            )
            stored.append(orthanc_identifier(*uids))
            self.service.on_stored_instance(dicom, stored[-1])
        return stored

    def published(self) -> list[str]:
        path = self.folder / "dicom_events.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line)["subject"] for line in lines if line.endswith("\n")]  # the last one may be growing


@pytest.fixture
def opening(
    source: Any, rest: FakeOrthanc, orthanc_standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Opening]:
    (tmp_path / "orthanc.json").write_text("{}")
    orthanc_standin.returns |= {"GetConfigurationPath": str(tmp_path / "orthanc.json"), "SetMetricsValue": None}
    made = Opening(source, orthanc_standin, tmp_path, monkeypatch)
    yield made
    made.release.set()
    if not made.service._stopped:
        made.change("ORTHANC_STOPPED")
    if made.service._pipeline:
        made.service._pipeline.close()


def test_no_callback_waits_for_the_outbox_and_what_they_report_is_published_in_order(opening: Opening) -> None:
    first = opening.store(1)
    opening.change("UPDATED_PEERS")
    assert opening.service._opener is None  # no thread, and no file, before Orthanc has started
    assert not opening.folder.exists()
    opening.change("ORTHANC_STARTED")
    second = opening.store(2)
    opening.change("UPDATED_PEERS")
    assert opening.service._pipeline is None
    opening.release.set()
    expected = [f"instances/{each}" for each in first] + ["peers"] + [f"instances/{each}" for each in second]
    eventually(lambda: len(opening.published()) == len(expected) + 1)
    found = opening.published()
    of_first, of_second = (set(expected[:IMAGES]), set(expected[IMAGES + 1 :]))
    assert [each for each in found if each in of_first] == expected[:IMAGES]
    assert [each for each in found if each in of_second] == expected[IMAGES + 1 :]
    assert found.count("peers") == 2


def test_what_is_reported_while_it_opens_is_on_disk_before_orthanc_ends(opening: Opening) -> None:
    opening.change("ORTHANC_STARTED")
    opening.store(1)
    opening.change("UPDATED_PEERS")
    threading.Timer(0.3, opening.release.set).start()
    opening.change("ORTHANC_STOPPED")
    lines = (opening.folder / "dicom_events.journal").read_text().splitlines()[1:]
    assert [json.loads(line.partition("\t")[0])[0] for line in lines] == [
        *["STORED_INSTANCE"] * IMAGES,
        *("UPDATED_PEERS", "ORTHANC_STOPPED"),
    ]


def test_instances_beyond_the_memory_are_left_to_the_list_of_changes_and_changes_are_kept(source: Any) -> None:
    reports = source("dicom_events.reports")
    early = reports.EarlyReports(source("dicom_events.settings").EventSettings(), {})
    for _ in range(70):
        early._write_down("x" * (1 << 20))
    early._write_down("change", keep=True)
    assert len(early) == 65
    assert [early.take() for _ in range(65)][-1] == ("change", True)
