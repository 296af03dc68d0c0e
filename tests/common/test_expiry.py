# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/expiry.py: a clock that is wrong deletes nothing that is kept for days, of the outbox and of the audit log."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.standin import StandIn
from tests.constants import script_with
from tests.faked_time import FakedTime

ROOT = Path(__file__).parents[2]
NOW, DAY = 1_800_000_000.0, 86400.0


class Times:
    """The clock and the seconds that go by."""

    def __init__(self) -> None:
        self.wall, self.steady = NOW, 1000.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    times = Times()
    monkeypatch.setattr(time, "time", lambda: times.wall)
    monkeypatch.setattr(time, "monotonic", lambda: times.steady)
    return times


@pytest.fixture
def expiry(orthanc_standin: StandIn, tmp_path: Path, times: Times) -> Iterator[Any]:
    ledger = importlib.import_module("common.ledger").Ledger(tmp_path / "state.sqlite")
    yield lambda: importlib.import_module("common.expiry").Expiry(ledger, "the script")
    ledger.close()
    for name in [name for name in sys.modules if name.startswith("common.")]:
        del sys.modules[name]


def test_a_clock_that_goes_as_ever_is_believed(expiry: Any, times: Times) -> None:
    one = expiry()
    for _ in range(100):
        assert one.may_delete()
        times.pass_by(DAY)
    times.wall -= 100 * DAY  # set back: nothing seems older
    assert one.may_delete()


def test_a_clock_that_is_set_ahead_deletes_nothing_until_it_is_right_again(
    expiry: Any, times: Times, orthanc_standin: StandIn
) -> None:
    one = expiry()
    assert one.may_delete()
    times.wall += 1000 * DAY
    for _ in range(50):
        assert not one.may_delete()
        times.pass_by(3600)
    said = [text for _, text in orthanc_standin.logs]
    assert len([text for text in said if "the clock is 1000 days ahead" in text]) == 3  # in 50 hours
    assert not expiry().may_delete()  # after a restart
    times.wall -= 1000 * DAY
    assert one.may_delete()


def test_a_clock_that_is_set_ahead_before_the_first_look_deletes_nothing_after_a_restart(
    expiry: Any, times: Times
) -> None:
    one = expiry()
    times.wall += 1000 * DAY
    assert not one.may_delete()
    assert not expiry().may_delete()


def test_what_nobody_sets_right_for_a_week_is_believed(expiry: Any, times: Times) -> None:
    """Such as after a server was off for months."""
    expiry().may_delete()
    times.wall += 100 * DAY
    one = expiry()
    assert not one.may_delete()
    times.pass_by(6.9 * DAY)
    assert not one.may_delete()
    times.pass_by(0.2 * DAY)
    assert one.may_delete()
    assert expiry().may_delete()


@pytest.fixture
def faked(tmp_path: Path) -> FakedTime:
    return FakedTime(tmp_path)


def test_the_outbox_keeps_what_seems_too_old_by_a_clock_that_is_wrong(
    start_orthanc: StartOrthanc, faked: FakedTime
) -> None:
    section = {"Broker": {"Type": "webhook", "Url": "http://127.0.0.1:9/"}, "Outbox": {"MaxAgeDays": 400}}
    script = ROOT / "dicom_events" / "__init__.py"
    server = start_orthanc(script, {"DicomEvents": section}, environment=faked.environment)
    server.store(make_study(instances=2))

    def outbox() -> Any:
        return server.get("/dicom-events/status")

    server.wait_until(lambda: outbox()["Brokers"]["broker"]["Backlog"] >= 2, what="events wait")
    backlog = outbox()["Brokers"]["broker"]["Backlog"]
    faked.set("+1096d")
    server.wait_for_log("dicom_events: the clock is 1096 days ahead of the time to be expected")
    time.sleep(3)
    assert outbox()["Outbox"]["Dropped"] == 0
    server.kill()
    server.start()
    time.sleep(3)
    assert outbox()["Outbox"]["Dropped"] == 0
    assert outbox()["Brokers"]["broker"]["Backlog"] >= backlog


def test_the_audit_log_keeps_its_files_by_a_clock_that_is_wrong(start_orthanc: StartOrthanc, faked: FakedTime) -> None:
    script = script_with(ROOT / "audit_log.py", {"MAX_FILE_BYTES": 1000})
    server = start_orthanc(script, {"AuditLog": {"KeepDays": 400}}, environment=faked.environment)
    folder = server.folder / "storage" / "audit-log"
    for patient in range(20):
        server.store(make_study(patient_id=f"P{patient}"))
        time.sleep(0.3)  # each turn writes its lines at once, to one file
    server.wait_until(lambda: any('"P19"' in path.read_text() for path in folder.iterdir()), what="write")
    files = {path.name for path in folder.iterdir()}
    assert len(files) > 2
    server.kill()
    faked.set("+1096d")
    server.start()
    server.wait_for_log("audit_log: the clock is 1096 days ahead of the time to be expected")
    assert files <= {path.name for path in folder.iterdir()}
