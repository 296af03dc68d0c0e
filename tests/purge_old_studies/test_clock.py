# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py where the clock is wrong: nothing goes by an age that is counted from it."""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.faked_time import FakedTime

SCRIPT = Path(__file__).parents[2] / "purge_old_studies.py"
DAY = 86400.0
NOW = datetime.datetime(2026, 11, 27, 12, tzinfo=datetime.timezone.utc).timestamp()  # noqa: UP017
YEAR_1970 = 3600.0


# The guard by itself


class Machine:
    """A machine whose clock is set at will, and scripts that start on it."""

    def __init__(self, script: ModuleType, folder: Path) -> None:
        self.script, self.folder = script, folder
        self.wall, self.steady = NOW, 1000.0
        self.start()

    def start(self) -> None:
        self.ledger = self.script.Ledger(self.folder / "ledger.sqlite", self.script.TABLES)
        self.clock = self.script.Clock(self.ledger, lambda: self.wall, lambda: self.steady)

    def restart(self, off: float = 0.0) -> None:
        """The script stops, and starts again when so many seconds have passed; another boot has another steady clock."""
        self.ledger.close()
        self.wall += off
        self.steady = 5.0
        self.start()

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def is_doubted(self) -> bool:
        return bool(self.clock.record().doubt)


@pytest.fixture
def script(orthanc_standin: StandIn) -> ModuleType:
    return orthanc_standin.load(SCRIPT)


@pytest.fixture
def machine(script: ModuleType, tmp_path: Path) -> Machine:
    return Machine(script, tmp_path)


def test_a_clock_that_goes_as_time_does_is_believed_for_years(machine: Machine) -> None:
    for _ in range(3 * 365):
        machine.passes(DAY)
        machine.wall += 5  # NTP puts it right each day
        assert not machine.is_doubted()


@pytest.mark.parametrize(
    ("jump", "doubted"),
    [(3600, False), (23 * 3600, False), (25 * 3600, True), (3 * 365 * DAY, True),
     (-23 * 3600, False), (-25 * 3600, True), (-50 * 365 * DAY, True)],
)  # fmt: skip
def test_while_it_runs_a_clock_more_than_a_day_off_is_doubted(machine: Machine, jump: float, doubted: bool) -> None:
    assert not machine.is_doubted()
    machine.wall += jump
    for _ in range(3):
        assert machine.is_doubted() == doubted
        machine.passes(20)


@pytest.mark.parametrize(("off", "doubted"), [(0, False), (29, False), (31, True), (1000, True), (-2, True)])
def test_at_a_start_a_clock_more_than_thirty_days_ahead_is_doubted(machine: Machine, off: float, doubted: bool) -> None:
    assert not machine.is_doubted()
    machine.restart(off * DAY)
    assert machine.is_doubted() == doubted
    machine.passes(40 * DAY)  # what goes by does not make it right
    assert machine.is_doubted() == doubted


def test_a_time_that_is_doubted_is_never_what_is_expected_later(machine: Machine) -> None:
    machine.is_doubted()
    machine.wall += 3 * 365 * DAY
    for _ in range(50):
        machine.passes(3600)
        assert machine.is_doubted()
    machine.restart()
    assert machine.is_doubted()
    machine.wall -= 3 * 365 * DAY
    assert not machine.is_doubted()


def test_a_clock_that_fell_back_to_1970_is_believed_as_soon_as_it_is_set_right(machine: Machine) -> None:
    machine.is_doubted()
    right = machine.wall
    machine.wall = YEAR_1970
    assert machine.is_doubted()
    machine.restart()  # also over restarts
    assert machine.is_doubted()
    machine.wall = right + 3 * DAY
    assert not machine.is_doubted()


def test_a_first_start_in_1970_is_believed_as_soon_as_it_is_set_right(machine: Machine) -> None:
    machine.wall = YEAR_1970  # nothing is recorded yet
    machine.restart()
    assert machine.is_doubted()
    machine.passes(30)
    assert machine.is_doubted()
    machine.restart()
    machine.wall = NOW
    assert not machine.is_doubted()


def test_a_person_who_confirms_the_clock_is_believed_also_after_a_restart(machine: Machine) -> None:
    machine.is_doubted()
    machine.restart(400 * DAY)
    assert machine.is_doubted()
    assert machine.clock.confirm().doubt == ""
    assert not machine.is_doubted()
    machine.restart(DAY)
    assert not machine.is_doubted()
    machine.wall += 2 * DAY  # and is guarded as before
    assert machine.is_doubted()


def test_an_error_each_day_says_that_the_clock_is_doubted_and_one_line_that_it_is_over(
    machine: Machine, orthanc_standin: StandIn
) -> None:
    machine.is_doubted()
    machine.wall += 3 * 365 * DAY
    for _ in range(3 * 24 * 180):
        machine.is_doubted()
        machine.passes(20)
    errors = [text for level, text in orthanc_standin.logs if level == "error"]
    assert len(errors) == 3
    assert all("confirm-clock" in text and "1095 days ahead" in text for text in errors)
    machine.wall -= 3 * 365 * DAY
    machine.is_doubted()
    machine.is_doubted()
    assert sum("believed again" in text for _, text in orthanc_standin.logs) == 1


def test_a_ledger_that_takes_nothing_neither_stops_the_guard_nor_fills_the_log(
    machine: Machine, orthanc_standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(machine.ledger, "set_value", full)
    for _ in range(10):
        assert not machine.is_doubted()
        machine.passes(20)
    assert sum("can't be recorded" in text for _, text in orthanc_standin.logs) == 1
    machine.wall += 2 * DAY
    assert machine.is_doubted()


def test_what_came_in_while_the_clock_was_behind_came_when_that_ended(machine: Machine) -> None:
    text = machine.script.orthanc_time_of
    machine.is_doubted()
    right = machine.wall
    machine.wall = YEAR_1970
    machine.is_doubted()
    received = text(machine.wall + 60)
    for _ in range(72):
        machine.passes(3600)
        machine.is_doubted()
    late = text(machine.wall)
    machine.restart()
    machine.wall = right + 3 * DAY
    assert not machine.is_doubted()
    for each in (received, late):
        assert machine.clock.arrival(each) == text(machine.wall)
    machine.restart(100 * DAY)  # and that stays so
    assert machine.clock.arrival(received) == text(right + 3 * DAY)
    before = text(NOW - 1000 * DAY)
    assert machine.clock.arrival(before) == before
    assert [machine.clock.arrival(none) for none in ("", "not-a-date-time", "2024")] == ["", "", ""]


def test_a_look_at_the_clock_waits_for_no_ledger(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object) -> None:
        raise AssertionError("it wrote")

    monkeypatch.setattr(machine.ledger, "transaction", locked)
    monkeypatch.setattr(machine.ledger, "rows", locked)
    for wall in (NOW, NOW + 3 * 365 * DAY, YEAR_1970, NOW):
        machine.wall = wall
        machine.clock.read()
        machine.clock.arrival("20200101T000000")


def test_a_clock_that_is_behind_for_a_year_is_one_row(machine: Machine) -> None:
    machine.is_doubted()
    machine.wall -= 3 * 365 * DAY
    for _ in range(365 * 4):
        machine.passes(DAY / 4)
        assert machine.is_doubted()
        now = machine.script.orthanc_time_of(machine.wall)
        assert machine.clock.arrival(now) > now
    assert len(machine.ledger.rows("SELECT * FROM behind")) == 1


@given(
    steps=st.lists(
        st.tuples(st.floats(40, 20_000), st.booleans(), st.booleans(), st.booleans(), st.floats(0, 20)), max_size=6
    )
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_often_the_clock_is_wrong_it_is_doubted_and_it_is_believed_again_once_it_is_right(
    script: ModuleType,
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[float, bool, bool, bool, float]],
) -> None:
    machine = Machine(script, tmp_path_factory.mktemp("machine"))
    assert not machine.is_doubted()
    for days, ahead, restarts, restarts_again, passing in steps:
        off = days * DAY if ahead else -days * DAY
        machine.wall += off
        if restarts:
            machine.restart()
        assert machine.is_doubted()
        machine.passes(passing * DAY)
        assert machine.is_doubted()
        machine.wall -= off
        if restarts_again:
            machine.restart()
        assert not machine.is_doubted()


def test_time_that_a_machine_sleeps_counts_where_the_system_tells(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 7.0}.get)
    assert script.steady_seconds() == 7.0
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert script.steady_seconds() == pytest.approx(time.monotonic(), abs=1)


class Runner:
    """In place of the script's own: it says what was begun."""

    def __init__(self) -> None:
        self.busy, self.stopping = threading.Lock(), SimpleNamespace(is_set=lambda: False)
        self.begun: list[Any] = []
        self.last_runs = SimpleNamespace(not_run=lambda *_: None)

    def begin(self, asked: Any, *_: Any, **__: Any) -> Any:
        self.begun.append(asked)
        self.busy.release()
        return SimpleNamespace(done=SimpleNamespace(wait=lambda _: True))


@pytest.mark.parametrize("jump", [0.0, 3 * 365 * DAY, -3 * 365 * DAY])
def test_a_rule_that_waited_for_another_purge_looks_at_the_clock_once_more(
    machine: Machine, script: ModuleType, jump: float
) -> None:
    runner, rule = Runner(), script.Rule("r", "7y", "02:30")
    schedule = script.Schedule(script.Settings(rules=(rule,)), machine.ledger, machine.clock, None, runner)
    machine.is_doubted()
    machine.wall += jump
    schedule._run_rule(rule, datetime.date(2026, 11, 27))
    assert len(runner.begun) == (0 if jump else 1)
    assert not runner.busy.locked()
    machine.wall -= jump
    schedule._run_rule(rule, datetime.date(2026, 11, 27))
    assert len(runner.begun) == 1  # it was not that day's run, or the day has had its run
    assert runner.begun[0].last == datetime.date(2019, 11, 27)
    assert runner.begun[0].received_until == script.orthanc_time_of(machine.wall - 7 * DAY)


@pytest.mark.parametrize(("steps", "runs"), [([3600.0], 0), ([500.0] * 5, 1), ([-3600.0, 3600.0, 500.0], 0)])
def test_a_clock_that_goes_ahead_by_more_than_ten_minutes_starts_no_rule(
    machine: Machine, script: ModuleType, steps: list[float], runs: int
) -> None:
    def pass_time(_: float) -> bool:
        step = next(left, None)
        machine.wall += step or 0.0
        return step is None

    left = iter(steps)
    at = datetime.datetime.fromtimestamp(NOW + 1800)  # noqa: DTZ006 - rules are written in local times
    rule, runner = script.Rule("r", "7y", f"{at:%H:%M:%S}"), Runner()
    runner.stopping.wait = pass_time
    script.Schedule(script.Settings(rules=(rule,)), machine.ledger, machine.clock, None, runner).run()
    assert len(runner.begun) == runs


# On a real Orthanc


def script_with(**constants: float) -> str:
    source = SCRIPT.read_text()
    for name, value in constants.items():
        line = next(line for line in source.splitlines() if line.startswith(f"{name} = "))
        source = source.replace(f"\n{line}\n", f"\n{name} = {value}\n")
    return source


def rules_in(first: int, last: int, step: int, days: float = 0.0, **more: Any) -> list[dict[str, Any]]:
    """Rules that run every so many seconds, by a clock that is so many days ahead."""
    now = datetime.datetime.now() + datetime.timedelta(days=days)  # noqa: DTZ005
    return [
        {"Name": f"{more.get('By')} in {seconds} s", "OlderThan": "90d",
         "At": f"{now + datetime.timedelta(seconds=seconds):%H:%M:%S}", **more}
        for seconds in range(first, last, step)
    ]  # fmt: skip


def wait_for(server: OrthancServer, what: Callable[[], object]) -> None:
    server.wait_until(what, timeout=60, what="do that")


def days_back(days: int) -> str:
    return f"{datetime.date.today() - datetime.timedelta(days):%Y%m%d}"  # noqa: DTZ011


def ended(server: OrthancServer, rule: str) -> list[dict[str, Any]]:
    """The purges of some rules that have ended."""
    return [
        job for job in server.get("/purge-old-studies/jobs")["Items"] if job["Ended"] and job["Rule"].startswith(rule)
    ]


def test_set_three_years_ahead_no_rule_deletes_until_it_is_set_right(
    start_briefly: StartOrthanc, tmp_path: Path
) -> None:
    faked = FakedTime(tmp_path)
    section = {"KeepReceivedDays": 0, "Rules": rules_in(3, 120, 3)}
    server = start_briefly(script_with(LOOK_SECONDS=0.5), {"PurgeOldStudies": section}, environment=faked.environment)
    server.store(make_study(patient_id="OLD", study_date="20010101"))
    wait_for(server, lambda: not server.get("/studies"))  # the rules do run
    server.store(make_study(patient_id="LATE", study_date=days_back(30)))
    faked.set("+1096d")
    wait_for(server, lambda: "days ahead of" in server.log)
    total = server.get("/purge-old-studies/jobs")["Total"]
    found = server.get("/purge-old-studies/status")["Clock"]
    assert (found["State"], found["Now"][:4] > found["Expected"][:4]) == ("doubted", True)
    assert "confirm-clock" in found["Message"]
    for asked in ({"older-than": "90d"}, {"since": days_back(0), "keep-received-days": 7}):
        answer = server.request("POST", "/purge-old-studies", json={**asked, "dry-run": False, "force": True})
        assert (answer.status_code, "confirm-clock" in answer.json()["Message"]) == (409, True)
    # A day that is yet to come is one, whatever the clock says; one that is given needs no clock.
    answer = server.request("POST", "/purge-old-studies", json={"since": days_back(-300), "dry-run": False})
    assert (answer.status_code, "yet to come" in answer.json()["Message"]) == (400, True)
    assert server.post("/purge-old-studies", {"since": "20010101", "format": "json"})["Studies"] == 0
    # The first would be started by the jump itself, the others later by the wrong clock.
    wait_for(server, lambda: server.log.count("does not run: The clock") >= 3)
    assert len(server.get("/studies")) == 1
    assert server.get("/purge-old-studies/jobs")["Total"] == total
    faked.set("+0")
    wait_for(server, lambda: "believed again" in server.log)
    assert server.get("/purge-old-studies/status")["Clock"]["State"] == "right"
    wait_for(server, lambda: server.get("/purge-old-studies/jobs")["Total"] > total)
    assert len(server.get("/studies")) == 1


def test_a_person_confirms_a_clock_after_a_server_was_off_for_long(start_briefly: StartOrthanc, tmp_path: Path) -> None:
    faked = FakedTime(tmp_path)
    server = start_briefly(SCRIPT, {"PurgeOldStudies": {"KeepReceivedDays": 0}}, environment=faked.environment)
    server.store(make_study(patient_id="LATE", study_date=days_back(80)))
    wait_for(server, lambda: server.request("GET", "/purge-old-studies/status").status_code == 200)
    with contextlib.closing(sqlite3.connect(server.folder / "storage" / "purge_old_studies.sqlite")) as ledger:
        recorded = "SELECT value FROM state WHERE name='clock'"
        wait_for(server, lambda: ledger.execute(recorded).fetchone())
    server.kill()
    faked.set("+31d")
    server.configuration["PurgeOldStudies"]["Rules"] = rules_in(3, 120, 3, days=31)
    server.start()
    wait_for(server, lambda: "31 days ahead" in server.log and "does not run: The clock" in server.log)
    assert len(server.get("/studies")) == 1
    assert server.request("POST", "/purge-old-studies/confirm-clock", json={"yes": True}).status_code == 400
    assert server.get("/purge-old-studies/status")["Clock"]["State"] == "doubted"
    assert server.post("/purge-old-studies/confirm-clock")["State"] == "right"
    assert server.get("/purge-old-studies/history")["Items"][0]["Event"] == "clock confirmed"
    wait_for(server, lambda: not server.get("/studies"))


def test_what_came_in_while_the_clock_was_in_1970_is_kept_by_rules_once_it_is_right(
    start_briefly: StartOrthanc, tmp_path: Path
) -> None:
    faked = FakedTime(tmp_path)
    faked.set("@1970-01-01 01:00:00")  # from the first start on, until NTP has set it
    rules = [*rules_in(5, 120, 5), *rules_in(7, 120, 5, By="received")]
    server = start_briefly(
        script_with(LOOK_SECONDS=0.5), {"PurgeOldStudies": {"Rules": rules}}, environment=faked.environment
    )
    server.store(make_study(patient_id="PRIOR", study_date="20010101"))
    assert server.get("/studies?expand")[0]["LastUpdate"].startswith("1970")
    assert "behind the time to be expected" in server.get("/purge-old-studies/status")["Clock"]["Message"]
    faked.set("+0")
    wait_for(server, lambda: "believed again" in server.log)
    wait_for(server, lambda: ended(server, "None") and ended(server, "received"))
    assert {job["Deleted"] for job in (*ended(server, "None"), *ended(server, "received"))} == {0}
    assert len(server.get("/studies")) == 1
