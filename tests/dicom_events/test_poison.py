# SPDX-License-Identifier: AGPL-3.0-or-later
"""An event that can't be formed or sent is a dead letter, and holds up nothing; what no broker takes is not published."""

from __future__ import annotations

import contextlib
import enum
import importlib
import json
import math
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from testing.pytest_plugin import StartOrthanc
from testing.standin import StandIn
from tests.brokers import NatsServer, RabbitServer, wait_until
from tests.dicom_events.brokers.helpers import (
    AWS_ENVIRONMENT,
    Hook,
    RabbitConsumer,
    Subscription,
    over_rabbit,
    over_sns,
    over_webhook,
)
from tests.dicom_events.helpers import NEVER_STABLE, OWN, SCRIPT, events, wait_for

FORMS = ("structured", "binary", "plain")
DEEP = "[" * 900 + "]" * 900
# What `publish` of the first version took: type, data as it was kept, subject; and the forms in which each broker sends it.
POISON = [
    ("org." + "a" * 300, "{}", "things/1"),
    ("org." + "a" * 5000, "{}", "things/2"),
    ("org.é" + "ü" * 200, "{}", "things/3"),
    ("org.test", '{"orthanc": 5}', "things/4"),
    ("org.test", '{"orthanc": {"study": 5}, "id": 1}', "things/5"),
    ("org.test", '{"orthanc": {}}', "things/6"),
    ("org.test", DEEP, "things/7"),
    ("org.test", '"\\ud800"', "things/8"),
    ("org.test", '{"\\udfff": 1}', "things/9"),
    ("org.test", "{}", "things/\x85" + "é" * 3000),
    ("org.test", "{}", "things/" + "a" * 200_000),
]


class Text(str):
    pass


class Number(enum.IntEnum):
    ONE = 1


class Package:
    """The package's modules on a stand-in, and an outbox with publishers that run."""

    def __init__(self) -> None:
        self.standin = StandIn()
        self.said: list[str] = []
        self.running: list[Any] = []
        self.outboxes: list[Any] = []

    def module(self, name: str) -> Any:
        return importlib.import_module(f"dicom_events.{name}")

    def start(self, folder: Path, brokers: dict[str, Any]) -> Any:
        read = self.module("settings")
        named = self.module("named").read_brokers(read.Settings(brokers=brokers))
        assert [each.complaint for each in named if each.complaint] == []
        folder.mkdir(exist_ok=True)
        outbox = self.module("outbox").Outbox(
            folder / "x.sqlite", durability="normal", most=10**9, oldest=0, refuse=False
        )
        self.outboxes.append(outbox)
        outbox.begin(named)
        for each in named:
            make = self.module("brokers").maker(
                each, "/test", "structured", folder, lambda _, text: self.said.append(text)
            )
            self.running.append(
                self.module("publisher").Publisher(each, outbox, make, lambda _, text: self.said.append(text), [])
            )
            self.running[-1].start()
        return outbox

    def statuses(self) -> dict[str, Any]:
        return {each.name: each.status() for each in self.running}

    def wait_for_all(self, timeout: float = 30) -> dict[str, Any]:
        """Until each broker has settled everything."""
        try:
            wait_until(lambda: not any(each["Backlog"] for each in self.statuses().values()), timeout, "all is settled")
        except TimeoutError:
            raise AssertionError(self.statuses()) from None
        return self.statuses()

    def stop(self) -> None:
        for each in self.running:
            each.stop()
        for each in self.running:
            each._thread.join(10)
        for outbox in self.outboxes:
            outbox.close()


@pytest.fixture(scope="module")
def loaded() -> Iterator[Callable[[], Package]]:
    package = Package()
    with package.standin.installed():
        package.module("settings")
        yield Package
    for name in [each for each in sys.modules if each.partition(".")[0] == "dicom_events"]:
        del sys.modules[name]


@pytest.fixture
def package(loaded: Callable[[], Package]) -> Iterator[Package]:
    made = loaded()
    with mock.patch.dict(os.environ, AWS_ENVIRONMENT):
        yield made
        made.stop()


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    with contextlib.closing(RabbitServer(tmp_path_factory.mktemp("rabbit") / "server")) as server:
        yield server.start()


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with contextlib.closing(NatsServer(tmp_path_factory.mktemp("nats") / "server")) as server:
        yield server.start()


def over_nats(server: NatsServer, name: str, **more: Any) -> dict[str, Any]:
    return {"Type": "nats", "NatsConfig": {"URL": server.url, "Stream": name, "Prefix": f"{name}."}, **more}


# -- what can be published ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data", "subject", "named"),
    [
        (5, {}, "a", "type: found 5, allowed: words"),
        ("org", {}, "a", "type: found 'org', allowed: words"),
        ("org.é", {}, "a", r"type: found 'org.\xe9', allowed: words of ASCII"),
        ("org.\ud800", {}, "a", r"type: found 'org.\ud800'"),
        ("org.a\n", {}, "a", "type: found"),
        ("org." + "a" * 252, {}, "a", "at most 255 bytes"),
        ("dicom.study.stable", {}, "a", "not below dicom."),
        ("org.a", {}, None, "subject: found None, allowed: a text of one line, at most 255 bytes in UTF-8"),
        ("org.a", {}, "", "subject: found ''"),
        ("org.a", {}, " ", "subject: found ' '"),
        ("org.a", {}, "a\nb", "subject: found"),
        ("org.a", {}, "a\x85b", "subject: found"),
        ("org.a", {}, "\udfff", "subject: found"),
        ("org.a", {}, "é" * 128, "subject: found"),
        ("org.a", math.nan, "a", "data: found nan, allowed: objects with texts as keys"),
        ("org.a", [{"a": math.inf}], "a", "data: found inf"),
        ("org.a", {"a": {1: 2}}, "a", "data: found a key that is no text (1)"),
        ("org.a", {None: 2}, "a", "data: found a key that is no text (None)"),
        ("org.a", ["\ud800"], "a", "data: found half of a surrogate pair"),
        ("org.a", {"\udfff": 1}, "a", "data: found half of a surrogate pair"),
        ("org.a", b"x", "a", "data: found bytes"),
        ("org.a", {"a": {1, 2}}, "a", "data: found set"),
        (
            "org.a",
            json.loads(DEEP),
            "a",
            "data: found a deeper one, allowed: objects with texts as keys, lists, texts, fin",
        ),
        ("org.a", [10**5000], "a", "data: found no JSON"),
        ("org.a", "x" * (16 << 20), "a", "data: found 16777218 bytes of JSON"),
    ],
)
def test_what_no_broker_takes_is_refused_by_name(
    package: Package, kind: Any, data: Any, subject: Any, named: str
) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the text is compared below
        package.module("own").json_of_event(kind, data, subject)
    assert named in str(raised.value)
    str(raised.value).encode()
    assert len(str(raised.value)) < 400


def test_a_list_that_holds_itself_is_refused(package: Package) -> None:
    data: list[Any] = []
    data.append(data)
    with pytest.raises(ValueError, match="deeper"):
        package.module("own").json_of_event("org.a", data, "a")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"a": [1, 2.5, None, True, "é\n\U0001f600"]}, '{"a": [1, 2.5, null, true, "\\u00e9\\n\\ud83d\\ude00"]}'),
        ((1, Number.ONE, Text("a")), '[1, 1, "a"]'),
        ({"orthanc": {"study": 5}}, '{"orthanc": {"study": 5}}'),
        (json.loads("[" * 50 + "]" * 50), "[" * 50 + "]" * 50),
        ("x" * 1000, json.dumps("x" * 1000)),
    ],
)
def test_what_is_json_is_taken(package: Package, data: Any, text: str) -> None:
    assert package.module("own").json_of_event("org." + "a" * 251, data, "é" * 127 + "a") == text


# -- what the first version took, at each broker --------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_events_that_the_first_version_took_hold_up_no_other(
    package: Package,
    rabbit: RabbitServer,
    nats_server: NatsServer,
    hook: Hook,
    kafka: str,
    aws: str,
    tmp_path: Path,
    form: str,
) -> None:
    consumer = RabbitConsumer(rabbit, f"poison-{form}")
    topics = {"Type": "kafka", "KafkaConfig": {"BootstrapServers": kafka, "Topic": f"poison-{form}"}, "Format": form}
    brokers = {
        "rabbit": over_rabbit(rabbit, f"poison-{form}", Format=form),
        "nats": over_nats(nats_server, f"poison-{form}", Format=form),
        "kafka": topics,
        "sns": over_sns(aws, Subscription(aws, f"poison-{form}"), Format=form),
        "webhook": over_webhook(hook, Format=form),
        "file": {"Type": "file", "Format": form},
        "log": {"Type": "log", "Format": form},
    }
    outbox = package.start(tmp_path / "state", brokers)
    wait_until(lambda: all(each["State"] == "connected" for each in package.statuses().values()), what="all connected")
    for number, (kind, data, subject) in enumerate(POISON):
        with outbox.transaction():
            outbox.add(f"before-{number}", "org.good", "series", "series/1", f'{{"n": {2 * number}}}')
            outbox.add(f"poison-{number}", kind, "series", subject, data)
            outbox.add(f"after-{number}", "org.good", "series", "series/1", f'{{"n": {2 * number + 1}}}')
    total = 3 * len(POISON)
    found = package.wait_for_all()
    for name, status in found.items():
        assert status["Published"] + status["DeadLetters"] == total, (name, status)
        assert status["State"] == "connected", (name, status)
    assert found["rabbit"]["DeadLetters"] >= 3  # a routing key has 255 bytes at most
    assert found["nats"]["DeadLetters"] >= 1
    for name in ("file", "log", "webhook"):
        assert found[name]["DeadLetters"] == (name == "webhook" and form == "binary"), found[name]
    letters = outbox.ledger.rows(
        "SELECT e.id, l.state, l.attempts, l.error FROM letter l JOIN event e ON e.row=l.event"
    )
    assert {each["id"].partition("-")[0] for each in letters} == {"poison"}
    assert {(each["state"], each["attempts"]) for each in letters} == {("dead", 1)}
    assert all(each["error"].startswith("it can't be sent: ") or "SNS takes" in each["error"] for each in letters)
    consumer.read()
    assert len([line for line in package.said if "does not take" in line]) <= len(brokers)
    good = [json.loads(body) for _, properties, body in consumer.messages if properties.type == "org.good"]
    assert [each.get("data", each)["n"] for each in good] == list(range(2 * len(POISON)))
    assert not any("is away" in line for line in package.said)


@pytest.mark.parametrize(
    "error", [ValueError("x"), AssertionError("x"), KeyError("x"), RecursionError("x"), TypeError()]
)
def test_any_exception_while_an_event_is_formed_is_its_own_failure(
    package: Package, tmp_path: Path, error: Exception
) -> None:
    events_module = package.module("events")
    real = events_module.Form.body

    def body(form: Any, event: Any) -> bytes:
        if event.type == "org.bad":
            raise error
        return bytes(real(form, event))

    with mock.patch.object(events_module.Form, "body", body):
        outbox = package.start(tmp_path / "state", {"file": {"Type": "file"}, "log": {"Type": "log"}})
        with outbox.transaction():
            for number in range(9):
                outbox.add(str(number), "org.bad" if number % 3 == 1 else "org.good", "key", "key", "{}")
        found = package.wait_for_all()
    assert {(each["Published"], each["DeadLetters"], each["State"]) for each in found.values()} == {(6, 3, "connected")}
    lines = (tmp_path / "state" / "dicom_events.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["0", "2", "3", "5", "6", "8"]
    reason = outbox.ledger.rows("SELECT error FROM letter LIMIT 1")[0]["error"]
    assert type(error).__name__ in reason


def test_a_batch_that_sns_refuses_for_one_of_its_events_costs_that_one(
    package: Package, tmp_path: Path, aws: str
) -> None:
    import botocore.client  # type: ignore[import-untyped]
    import botocore.exceptions  # type: ignore[import-untyped]

    real = botocore.client.BaseClient._make_api_call

    def call(client: Any, name: str, arguments: Any) -> Any:
        if name == "PublishBatch" and "poison" in str(arguments):
            answer = {"Error": {"Code": "InvalidParameter", "Message": "Invalid parameter: Message"}}
            raise botocore.exceptions.ClientError(answer, name)
        return real(client, name, arguments)

    with mock.patch.object(botocore.client.BaseClient, "_make_api_call", call):
        outbox = package.start(tmp_path / "state", {"sns": over_sns(aws, Subscription(aws, "batch"))})
        with outbox.transaction():
            for number in range(30):
                outbox.add(str(number), "org.test", f"key{number}", "key", '"poison"' if number == 14 else "{}")
        found = package.wait_for_all()
    assert (found["sns"]["Published"], found["sns"]["DeadLetters"], found["sns"]["State"]) == (29, 1, "connected")


def test_an_address_that_can_not_be_looked_up_is_no_fault_of_an_event(package: Package, tmp_path: Path) -> None:
    url = f"http://{'a' * 70}.example/"
    outbox = package.start(tmp_path / "state", {"hook": {"Type": "webhook", "WebhookConfig": {"URL": url}}})
    with outbox.transaction():
        outbox.add("1", "org.test", "key", "key", "{}")
    wait_until(lambda: package.said, what="the publisher to say so")
    status = package.statuses()["hook"]
    assert (status["State"], status["Backlog"], status["DeadLetters"]) == ("away", 1, 0)
    assert status["LastError"].startswith("Unicode")  # UnicodeError, and UnicodeEncodeError from Python 3.13 on


def test_large_events_are_read_a_few_at_a_time(package: Package, tmp_path: Path) -> None:
    outbox = package.start(tmp_path / "state", {"file": {"Type": "file", "Events": ["no.such"]}})
    with outbox.transaction():
        for number in range(30):
            outbox.add(str(number), "org.test", "key", "key", json.dumps("x" * 1_000_000))
    with contextlib.closing(outbox.reader()) as reader:
        assert len(outbox.read(reader, 0, 1000)) < 10
        assert len(outbox.read(reader, 25, 1000)) == 5
    package.wait_for_all()


# -- whatever is published ------------------------------------------------------------------------------------------

CHARACTERS = st.characters(exclude_categories=["Cs"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(CHARACTERS),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(CHARACTERS) | st.just("orthanc"), inner, max_size=4)
    ),
    max_leaves=10,
)
WORDS = st.text("abcXYZ019_-", min_size=1, max_size=120)
TYPES = st.lists(WORDS, min_size=2, max_size=9).map(".".join)
SUBJECTS = st.text(CHARACTERS, min_size=1, max_size=250)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(made=st.lists(st.tuples(TYPES, JSON, SUBJECTS), min_size=1, max_size=20))
@example([("org." + "a" * 251, {"orthanc": {"study": None}, "id": 1}, "ÿ\ufffe\u2028'\"\\%" * 9)])
@example([("org.test", {"identity": 1, "time": [], "orthanc": []}, "a;b=c,d")] * 3)
def test_whatever_can_be_published_stops_no_broker(
    everywhere: tuple[Package, Any, list[int]], made: list[tuple[str, Any, str]]
) -> None:
    package, outbox, counted = everywhere
    before = package.statuses()
    with outbox.transaction():
        for kind, data, subject in made:
            with contextlib.suppress(ValueError):
                text = package.module("own").json_of_event(kind, data, subject)
                outbox.add(package.module("outbox").new_id(), kind, subject, subject, text)
                counted[0] += 1
    for name, status in package.wait_for_all().items():
        assert status["State"] == "connected", (name, status)
        assert status["DeadLetters"] == before[name]["DeadLetters"], (name, status)
        assert status["Published"] == counted[0], (name, status)


@pytest.fixture
def everywhere(
    package: Package, rabbit: RabbitServer, nats_server: NatsServer, hook: Hook, kafka: str, aws: str, tmp_path: Path
) -> Any:
    brokers: dict[str, Any] = {}
    for form in FORMS:
        RabbitConsumer(rabbit, f"all-{form}")  # what nobody has a queue for would be kept
        topic = {"BootstrapServers": kafka, "Topic": f"all-{form}"}
        brokers |= {
            f"rabbit {form}": over_rabbit(rabbit, f"all-{form}", Format=form),
            f"nats {form}": over_nats(nats_server, f"all-{form}", Format=form),
            f"webhook {form}": over_webhook(hook, Format=form),
            f"file {form}": {"Type": "file", "Format": form, "FileConfig": {"Path": f"{form}.jsonl"}},
            f"kafka {form}": {"Type": "kafka", "KafkaConfig": topic, "Format": form},
            f"sns {form}": over_sns(aws, Subscription(aws, f"all-{form}"), Format=form),
        }
    outbox = package.start(tmp_path / "state", brokers)
    wait_until(lambda: all(each["State"] == "connected" for each in package.statuses().values()), what="all connected")
    return package, outbox, [0]


# -- on a server ----------------------------------------------------------------------------------------------------


def test_a_user_is_told_what_can_not_be_published_and_what_was_kept_can_be_looked_at(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    (tmp_path / "dicom_events").symlink_to(SCRIPT.parent)
    script = tmp_path / "own.py"
    script.write_text(OWN)
    server = start_orthanc(script, {"DicomEvents": {"Format": "plain"}, **NEVER_STABLE})
    own = {"type": "org.test", "data": {"orthanc": "mine"}, "subject": "things/1"}
    server.post("/hello", own)
    assert wait_for(server, "org.test")[0]["orthanc"] == "mine"
    assert "at most 255 bytes" in server.post("/hello", {**own, "type": "org." + "a" * 300})
    assert "surrogate" in server.post("/hello", {**own, "data": "\ud800"})
    deep: Any = []
    for _ in range(80):
        deep = [deep]
    assert "nested at most 50 deep" in server.post("/hello", {**own, "data": deep})
    assert server.stop() == 0
    # Left by the first version, deeper than a thread of Orthanc's can look at.
    with contextlib.closing(sqlite3.connect(server.folder / "storage" / "dicom_events.sqlite")) as db, db:
        nested = "[" * 100_000 + "]" * 100_000
        row = db.execute("SELECT MAX(cursor) FROM broker").fetchone()[0] + 1
        db.execute("INSERT INTO event VALUES(?,'deep','org.deep','k','things/2',1764000000.0,?)", (row, nested))
    server.start()
    letter = server.wait_until(lambda: server.get("/dicom-events/dead-letters")["Items"])[0]
    assert "RecursionError" in letter["Error"]
    assert server.get(f"/dicom-events/dead-letters/{letter['ID']}")["Data"] == nested
    server.post("/hello", {**own, "data": "after"})
    server.wait_until(lambda: [event.get("data") for event in events(server)][-1:] == ["after"])
