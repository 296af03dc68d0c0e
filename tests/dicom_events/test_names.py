# SPDX-License-Identifier: AGPL-3.0-or-later
"""What waits for a broker is bound to its name, and is not dropped because the configuration changed."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.dicom_events.helpers import NEVER_STABLE, SCRIPT, events, rows

RABBIT = {"Type": "rabbitmq", "RabbitConfig": {"URL": "amqp://127.0.0.1:1/"}}
FILE = {"Type": "file"}
# What the first version of the script made and left, as far as brokers are concerned.
FIRST_VERSION = """
PRAGMA journal_mode=WAL;
CREATE TABLE state(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE event(
    row INTEGER PRIMARY KEY, id TEXT NOT NULL, type TEXT NOT NULL, key TEXT NOT NULL, subject TEXT NOT NULL,
    created REAL NOT NULL, data TEXT);
CREATE TABLE broker(
    name TEXT PRIMARY KEY, cursor INTEGER NOT NULL, published INTEGER NOT NULL, dead INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE letter(
    id INTEGER PRIMARY KEY AUTOINCREMENT, broker TEXT NOT NULL, event INTEGER NOT NULL, key TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL, next_attempt REAL NOT NULL, error TEXT NOT NULL, updated REAL NOT NULL,
    UNIQUE(broker, event));
CREATE TABLE resource(
    id TEXT PRIMARY KEY, level TEXT NOT NULL, dicom TEXT, parent TEXT, tags TEXT, origin TEXT, received INTEGER NOT NULL,
    unstable INTEGER NOT NULL, due REAL, announced INTEGER NOT NULL, deleted REAL) WITHOUT ROWID;
CREATE TABLE instance(id TEXT PRIMARY KEY, dicom TEXT, series TEXT) WITHOUT ROWID;
CREATE TABLE told(batch INTEGER PRIMARY KEY, instances TEXT NOT NULL, seen REAL NOT NULL);
CREATE TABLE held(
    series TEXT PRIMARY KEY, due REAL NOT NULL, id TEXT, subject TEXT, created REAL, data TEXT) WITHOUT ROWID;
INSERT INTO state VALUES('made', 1700000000), ('cursor', 0);
INSERT INTO event VALUES(7, 'seven', 'dicom.study.new', 'k', 'studies/k', 1764000000.0, '{"level": "Study"}'),
                        (8, 'eight', 'org.test', 'k', 'things/1', 1764000001.0, '{}'),
                        (9, 'nine', 'org.test', 'k', 'things/2', 1764000002.0, '{}');
PRAGMA user_version=1;
"""


@pytest.fixture(scope="module")
def package() -> Iterator[Any]:
    """The package's modules, by name, on a stand-in."""
    with StandIn().installed():
        yield lambda name: importlib.import_module(f"dicom_events.{name}")
    for name in [each for each in sys.modules if each.partition(".")[0] == "dicom_events"]:
        del sys.modules[name]


@pytest.fixture
def start(package: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """The outbox as it is after a start with such a section; `said` is what it told."""
    opened: list[Any] = []

    def close_all() -> None:
        for each in opened:
            each.close()
        opened.clear()

    def open_outbox(keep: float = 30, most: int = 10**9, refuse: bool = False, **section: Any) -> Any:
        close_all()
        settings = package("settings")
        made = package("outbox").Outbox(
            tmp_path / "x.sqlite", durability="normal", most=most, oldest=0, refuse=refuse, keep_orphaned=keep
        )
        opened.append(made)
        brokers = package("named").read_brokers(
            settings.Settings(broker=section.get("Broker"), brokers=section.get("Brokers", {}))
        )
        made.said = made.begin(brokers)
        return made

    yield open_outbox
    close_all()


def add(outbox: Any, number: int = 1, size: int = 2) -> None:
    with outbox.transaction():
        for _ in range(number):
            outbox.add("id", "org.test", "things", "things", json.dumps("x" * (size - 2)))


def cursors(outbox: Any) -> dict[str, int]:
    return {row["name"]: row["cursor"] for row in outbox.ledger.rows("SELECT name, cursor FROM broker")}


def orphans(outbox: Any) -> list[str]:
    return list(outbox.places.orphans.names())


def waiting(outbox: Any) -> list[int]:
    return [row["row"] for row in outbox.ledger.rows("SELECT row FROM event ORDER BY row")]


# -- names ----------------------------------------------------------------------------------------------------------


def test_broker_has_one_name_whatever_its_type_and_whatever_stands_beside_it(package: Any) -> None:
    settings = package("settings")

    def names(**section: Any) -> list[tuple[str, bool]]:
        found = package("named").read_brokers(settings.Settings(**section))
        return [(each.name, bool(each.complaint)) for each in found]

    assert names(broker=RABBIT) == [("broker", False)]
    assert names(broker=FILE) == [("broker", False)]
    assert names(broker={"Type": "rabitmq"}) == [("broker", True)]
    assert names(broker={**RABBIT, "Name": "ris"}) == [("ris", False)]
    assert names(broker={"Type": "rabitmq", "Name": "ris"}) == [("ris", True)]
    assert names(broker=RABBIT, brokers={"rabbitmq": RABBIT}) == [("broker", False), ("rabbitmq", False)]
    assert names(broker=RABBIT, brokers={"broker": FILE}) == [("broker", True)]
    assert names(broker={**RABBIT, "Name": "ris"}, brokers={"ris": FILE, "a": FILE}) == [("ris", True), ("a", False)]
    assert names() == [("file", False)]


@pytest.mark.parametrize("name", ["", " ", "a\nb", " a", "\ud800", "x" * 201, 5, ["a"]])
def test_a_name_that_is_none_is_told_and_binds_nothing(package: Any, start: Callable[..., Any], name: Any) -> None:
    settings = package("settings")
    found = package("named").read_brokers(settings.Settings(broker={**FILE, "Name": name}))
    assert "Name: found the name" in found[0].complaint
    assert cursors(start(Broker={**FILE, "Name": name})) == {}
    if isinstance(name, str):
        assert cursors(start(Brokers={name: FILE})) == {}


def test_the_name_of_one_of_brokers_is_its_key(package: Any) -> None:
    settings = package("settings")
    found = package("named").read_brokers(settings.Settings(brokers={"ris": {**FILE, "Name": "pacs"}}))
    assert (found[0].name, found[0].complaint) == (
        "ris",
        "DicomEvents.Brokers.ris.Name: found one, allowed: none, its name is its key in Brokers",
    )


# -- what is kept ---------------------------------------------------------------------------------------------------


def test_a_mistyped_type_and_a_broker_that_is_added_leave_what_waits_where_it_is(start: Callable[..., Any]) -> None:
    add(start(Broker=RABBIT), 3)
    assert cursors(start(Broker={**RABBIT, "Type": "rabitmq"})) == {"broker": 0}
    assert cursors(start(Broker=RABBIT, Brokers={"a": FILE})) == {"broker": 0, "a": 3}
    outbox = start(Broker=RABBIT, Brokers={"a": FILE})
    assert (outbox.backlog("broker")[0], outbox.said, orphans(outbox)) == (3, [], [])


def test_a_broker_that_is_replaced_for_an_hour_finds_all_when_it_is_back(start: Callable[..., Any]) -> None:
    outbox = start(Brokers={"ris": RABBIT})
    add(outbox, 3)
    outbox.settle("ris", 1, 1)
    outbox.letters.park("ris", [(1, "things")], "refused", "dead", 1)
    replaced = start(Brokers={"other": FILE})
    assert (orphans(replaced), cursors(replaced)) == (["ris"], {"other": 3, "ris": 1})
    add(replaced, 2)
    replaced.settle("other", 5, 2)
    replaced.retention.tidy()
    assert waiting(replaced) == [1, 2, 3, 4, 5]
    back = start(Brokers={"ris": RABBIT, "other": FILE})
    assert (orphans(back), back.totals("ris")["Backlog"], back.totals("ris")["DeadLetters"]) == ([], 4, 1)
    with contextlib.closing(back.reader()) as reader:
        assert [event.row for event in back.read(reader, back.cursor("ris"), 10)] == [2, 3, 4, 5]


def test_another_type_under_the_same_name_is_told(start: Callable[..., Any]) -> None:
    add(start(Broker=RABBIT), 3)
    outbox = start(Broker=FILE)
    assert outbox.said == ["broker broker was rabbitmq and is file: what waits for that name goes there now"]
    assert outbox.backlog("broker")[0] == 3
    assert start(Broker=FILE).said == []


def test_a_file_that_nobody_configured_is_no_orphan_unless_something_waits_for_it(start: Callable[..., Any]) -> None:
    outbox = start()
    add(outbox, 2)
    outbox.settle("file", 2, 2)
    outbox = start(Broker=RABBIT)
    assert (cursors(outbox), orphans(outbox)) == ({"broker": 2}, [])
    outbox = start()  # the section is not there for a while
    assert (cursors(outbox), orphans(outbox)) == ({"broker": 2, "file": 2}, ["broker"])
    add(outbox, 1)
    outbox = start(Broker=RABBIT)
    assert (cursors(outbox), orphans(outbox)) == ({"broker": 2, "file": 2}, ["file"])


def test_an_orphan_goes_after_its_days_of_running_whatever_the_clock_says(
    package: Any, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, clock = sys.modules[package("places").Orphans.__module__], [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    add(start(Brokers={"ris": RABBIT}), 2)
    outbox = start(Broker=FILE, keep=2)
    monkeypatch.setattr(module.time, "time", lambda: 4e9)  # a clock that has jumped by decades
    assert outbox.retention.tidy() is None
    clock[0] += 86400
    assert outbox.retention.tidy() is None
    assert outbox.places.orphans.names()["ris"][1] == 1
    clock[0] += 20  # a restart in between does not begin anew
    outbox = start(Broker=FILE, keep=2)
    clock[0] += 86380
    assert outbox.retention.tidy() is None
    clock[0] += 40
    assert outbox.retention.tidy() == "what waited for ris was kept for KeepOrphanedDays, and is dropped now"
    assert (cursors(outbox), orphans(outbox)) == ({"broker": 2}, [])


def test_kept_for_ever_means_for_ever(package: Any, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    module, clock = sys.modules[package("places").Orphans.__module__], [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    start(Brokers={"ris": RABBIT})
    outbox = start(Broker=FILE, keep=0)
    clock[0] += 1e9
    assert outbox.retention.tidy() is None
    assert orphans(outbox) == ["ris"]


@pytest.mark.parametrize("refuse", [False, True])
def test_a_full_outbox_costs_orphans_first_and_no_broker_that_is_there(start: Callable[..., Any], refuse: bool) -> None:
    start(Brokers={"gone": RABBIT, "slow": RABBIT, "here": FILE})
    outbox = start(Brokers={"slow": RABBIT, "here": FILE}, most=1_000_000, refuse=refuse)
    add(outbox, 100, 10_000)
    for name, cursor in (("slow", 60), ("here", 100)):
        outbox.settle(name, cursor, 0)
    outbox.letters.park("slow", [(3, "things")], "refused", "dead", 1)
    assert "events were dropped unpublished" in outbox.retention.tidy()
    left = waiting(outbox)
    assert set(left) >= {3, *range(61, 101)}
    assert not outbox.retention.is_full
    add(outbox)
    assert outbox.retention.refused == 0
    assert outbox.totals("slow")["Backlog"] == 41


# -- an outbox of the first version ---------------------------------------------------------------------------------


@pytest.fixture
def first_version(tmp_path: Path) -> Callable[..., None]:
    def make(**cursors: int) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "x.sqlite")) as db, db:
            db.executescript(FIRST_VERSION)
            for name, cursor in cursors.items():
                name = name.replace("_", "-")
                db.execute("INSERT INTO broker VALUES(?,?,5,1)", (name, cursor))
                db.execute("INSERT INTO letter VALUES(NULL,?,7,'k','dead',5,0,'refused',0)", (name,))

    return make


def test_what_waited_for_broker_goes_on_under_its_new_name(
    start: Callable[..., Any], first_version: Callable[..., None]
) -> None:
    first_version(rabbitmq=7, a=9)
    outbox = start(Broker=RABBIT, Brokers={"a": FILE})
    assert (cursors(outbox), orphans(outbox)) == ({"broker": 7, "a": 9}, [])
    totals = outbox.totals("broker")
    assert (totals["Backlog"], totals["Published"], totals["DeadLetters"]) == (2, 5, 1)
    assert cursors(start(Broker=RABBIT, Brokers={"a": FILE})) == {"broker": 7, "a": 9}
    # One of Brokers that gets the old name later is another one.
    assert cursors(start(Broker=RABBIT, Brokers={"rabbitmq": FILE, "a": FILE})) == {"broker": 7, "a": 9, "rabbitmq": 9}


@pytest.mark.parametrize(
    ("old", "section", "new", "left"),
    [
        ({"file": 8}, {}, {"file": 8}, []),
        ({"file": 8}, {"Broker": FILE}, {"broker": 8}, []),
        ({"rabbitmq": 8}, {"Broker": {**RABBIT, "Name": "ris"}}, {"ris": 8}, []),
        ({"rabbitmq": 8}, {"Broker": {"Type": "rabitmq"}}, {"broker": 8}, []),
        ({"broker": 8}, {"Broker": RABBIT}, {"broker": 8}, []),
        ({"rabbitmq": 8}, {"Broker": FILE}, {"broker": 9, "rabbitmq": 8}, ["rabbitmq"]),
        ({"rabbitmq": 8}, {"Brokers": {"rabbitmq": RABBIT}}, {"rabbitmq": 8}, []),
        ({"rabbitmq": 8, "rabbitmq_2": 7}, {"Broker": RABBIT, "Brokers": {"rabbitmq": RABBIT}},
         {"broker": 8, "rabbitmq": 7}, []),
        ({"rabbitmq": 8, "a": 7}, {"Broker": RABBIT}, {"broker": 8, "a": 7}, ["a"]),
        ({"a": 8, "b": 7}, {"Brokers": {"b": FILE}}, {"a": 8, "b": 7}, ["a"]),
    ],
)  # fmt: skip
def test_no_place_of_the_first_version_is_lost_or_another_brokers(
    start: Callable[..., Any],
    first_version: Callable[..., None],
    old: dict[str, int],
    section: dict[str, Any],
    new: dict[str, int],
    left: list[str],
) -> None:
    first_version(**old)
    outbox = start(**section)
    assert (cursors(outbox), orphans(outbox)) == (new, left)
    assert len(outbox.ledger.rows("SELECT * FROM letter")) == len(old)
    outbox.retention.tidy()
    assert waiting(outbox) == [7, *range(1 + min(8, *new.values()) if len(new) > 1 else 9, 10)]


# -- on a server ----------------------------------------------------------------------------------------------------


def of(server: OrthancServer, name: str) -> dict[str, Any]:
    return dict(server.get("/dicom-events/status")["Brokers"][name])


def begin_again(server: OrthancServer, section: dict[str, Any]) -> None:
    assert server.stop() == 0
    server.configuration["DicomEvents"] = section
    server.start()


def test_what_waits_for_a_broker_that_is_gone_is_shown_and_goes_by_delete_alone(start_orthanc: StartOrthanc) -> None:
    name = "ris, a/b c"
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Brokers": {name: RABBIT}}, **NEVER_STABLE})
    server.store(make_study(instances=3))
    server.wait_until(lambda: of(server, name)["Backlog"] == 3)
    begin_again(server, {"Broker": FILE})
    assert server.wait_for_log("no broker is configured").count(f"{name} (3 events)") == 1
    server.store(make_study(instances=2, seed=2))
    server.wait_until(lambda: len(events(server)) == 2)
    server.wait_until(lambda: of(server, name)["Backlog"] == 5)
    status = of(server, name)
    assert (status["State"], status["Type"], status["DeadLetters"]) == ("orphaned", "rabbitmq", 0)
    assert status["OrphanedSince"].endswith("Z")
    assert 29 < status["DaysLeft"] <= 30
    # It gets all that happened meanwhile when it is back, to the place that a person gave.
    begin_again(server, {"Broker": FILE, "Brokers": {name: {**FILE, "FileConfig": {"Path": "ris.jsonl"}}}})
    server.wait_until(lambda: len(events(server, "ris.jsonl")) == 5)
    assert "was rabbitmq and is file" in server.log
    begin_again(server, {"Broker": RABBIT})
    server.store(make_study(instances=1, seed=3))
    server.wait_until(lambda: of(server, name)["Backlog"] == 1)
    assert server.request("DELETE", "/dicom-events/brokers/broker").status_code == 409
    assert server.request("DELETE", "/dicom-events/brokers/nobody").status_code == 404
    path = "/dicom-events/brokers/ris,%20a%2Fb%20c"
    stranger = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert server.request("DELETE", path, headers=stranger).status_code == 403
    assert of(server, name)["Backlog"] == 1
    gone = server.delete(path)
    assert (gone["Broker"], gone["State"], gone["Backlog"]) == (name, "dropped", 1)
    assert server.get("/dicom-events/status")["Brokers"].keys() == {"broker"}
    assert of(server, "broker")["Backlog"] == 1
    assert rows(server, "SELECT COUNT(*) FROM event") == [(1,)]


def test_an_outbox_that_the_first_version_left_loses_nothing(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": RABBIT}, **NEVER_STABLE}, start=False)
    folder = server.folder / "storage"
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(folder / "dicom_events.sqlite")) as db, db:
        db.executescript(FIRST_VERSION + "INSERT INTO broker VALUES('rabbitmq', 6, 6, 0);")
    shutil.copy(folder / "dicom_events.sqlite", tmp_path / "x.sqlite")
    server.start()
    assert of(server, "broker")["Backlog"] == 3
    begin_again(server, {"Broker": FILE})
    server.wait_until(lambda: len(events(server)) == 3)
    assert [event["id"] for event in events(server)] == ["seven", "eight", "nine"]
