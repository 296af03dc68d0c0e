# SPDX-License-Identifier: AGPL-3.0-or-later
"""How a peer is asked who it is, and what comes of it: without a server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from testing.nodes import HttpAnswer, HttpNode, HttpRequest, answer_json
from testing.standin import StandIn
from testing.waiting import wait_until

SCRIPT = Path(__file__).parents[2] / "auto_forward_peer.py"
SYSTEM = {"ApiVersion": 18, "DicomAet": "PEER", "Version": "1.10.1"}
PUBLIC: dict[str, Any] = {"HttpHeaders": [], "Password": None, "Pkcs11": False, "Timeout": 0}


@pytest.fixture
def script(orthanc_standin: StandIn) -> ModuleType:
    return orthanc_standin.load(SCRIPT)


@pytest.fixture
def node() -> Iterator[HttpNode]:
    with HttpNode(answer_json(SYSTEM)) as each:
        yield each


class Knows:
    """A loopback to an Orthanc that knows one peer, and says this when it is asked to ask it."""

    def __init__(self, public: Mapping[str, Any], system: bytes = b"") -> None:
        self.public, self.system, self.asked = {"PEER": {**PUBLIC, **public}}, system, 0

    def get(self, path: str) -> Any:
        assert path == "/peers?expand"
        return self.public

    def request_raw(self, method: str, path: str) -> tuple[None, bytes]:
        assert (method, path) == ("GET", "/peers/PEER/system")
        self.asked += 1
        return None, self.system


@pytest.mark.parametrize(
    ("configured", "public", "used"),
    [
        (["http://a/"], {"Url": "http://a/"}, {"Url": "http://a/"}),
        (["http://a", "u", "p"], {"Url": "http://a/", "Username": "u"}, {"Username": "u", "Password": "p"}),
        ({"Url": "http://a", "HttpHeaders": {"X": "1"}}, {"Url": "http://a/", "HttpHeaders": ["X"]}, {"HttpHeaders": {"X": "1"}}),
        ({"URL": "http://a/", "Username": "u", "Password": "p"}, {"Url": "http://a/", "Username": "u"}, {"Password": "p"}),
        (None, {"Url": "http://a/"}, {"Url": "http://a/"}),  # in the database, without a secret
        (["http://a/"], {"Url": "http://b/"}, {"Url": "http://b/"}),  # changed by PUT /peers/PEER
        # What only Orthanc knows, or can do:
        (None, {"Url": "http://a/", "Username": "u"}, "password"),
        (None, {"Url": "http://a/", "HttpHeaders": ["X"]}, "password"),
        (None, {"Url": "https://a/", "CertificateFile": "x.pem"}, "password"),
        (["http://a/", "u", "p"], {"Url": "http://b/", "Username": "u"}, "password"),
        (["http://a/", "u", "p"], {"Url": "http://a/", "Username": "v"}, "password"),
        ({"Url": "https://a/", "Pkcs11": True}, {"Url": "https://a/", "Pkcs11": True}, "PKCS#11"),
    ],
)  # fmt: skip
def test_a_password_goes_only_to_the_address_that_it_is_configured_for(
    script: ModuleType, configured: Any, public: dict[str, Any], used: dict[str, Any] | str
) -> None:
    peers = script.Peers({"OrthancPeers": {"PEER": configured} if configured else {}}, Knows(public))
    if isinstance(used, str):
        with pytest.raises(script.OnlyOrthancCanAskError, match=used):
            peers.settings("PEER")
    else:
        found = peers.settings("PEER")
        assert {key: found.get(key) for key in used} == used
        assert found["Url"] == public["Url"]
        if found["Url"] == "http://b/":
            assert "Password" not in found


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://pacs/system", "https://pacs/"),
        ("https://u:p@pacs:8443/orthanc/system?key=1#f", "https://pacs:8443/orthanc/"),
        ("//u:p@pacs/login?next=/system", "http://pacs/login/"),
        ("/login?session=1", "http://here:80/login/"),
        ("http://pacs/\r\nE1127 forged", "http://pacs/E1127 forged/"),
        ("http://[broken", "no address"),
        ("", "no address"),
        ("mailto:u:p@pacs", "no address"),
    ],
)
def test_the_address_of_a_redirect_is_shown_without_secrets(script: ModuleType, location: str, shown: str) -> None:
    text = script.redirected("PEER", "http://me:secret@here:80/", location)
    assert f"PEER redirects to {shown}: what is sent there would be lost" in text
    assert "\n" not in text
    assert "u:p" not in text
    assert "secret" not in text


def test_a_peer_that_only_orthanc_can_ask_is_asked_by_orthanc_and_openly_once_an_hour(
    script: ModuleType, node: HttpNode
) -> None:
    public = {"Url": f"{node.url}/", "Username": "u"}
    node.respond = answer_json({}, 401)
    knows = Knows(public, b"<html>")
    peers = script.Peers({}, knows)
    for _ in range(3):
        with pytest.raises(script.MisconfiguredError, match="HTML"):
            peers.check("PEER")
    assert (knows.asked, len(node.asked)) == (3, 1)
    knows.system = b'{"ApiVersion": 18, "DicomAet": "PEER", "Version": "1.10.1"}'
    peers.check("PEER")
    peers = script.Peers({}, knows)
    node.respond = lambda _: HttpAnswer(301, headers={"Location": "https://pacs/"})
    for _ in range(2):
        with pytest.raises(script.MisconfiguredError, match="redirects to https://pacs/"):
            peers.check("PEER")
    assert len(node.asked) == 3


def test_the_whole_of_an_answer_that_never_ends_is_not_read(script: ModuleType, node: HttpNode) -> None:
    node.respond = lambda _: HttpAnswer(200, b"[" * (script.LARGEST_ANSWER + 1000))
    peers = script.Peers({}, Knows({"Url": node.url}))
    with pytest.raises(script.MisconfiguredError, match="no Orthanc"):
        peers.check("PEER")


@pytest.mark.parametrize(
    "content",
    [{"ID": "a"}, ["a"], [{"id": "a"}], "a", None, [{"ID": ["a"]}], [{"ID": "a", "FileUuid": ["x"]}]],
    ids=str,
)
def test_what_does_not_answer_as_an_orthanc_proves_nothing(script: ModuleType, node: HttpNode, content: Any) -> None:
    node.respond = answer_json(content)
    peers = script.Peers({}, Knows({"Url": node.url}))
    with pytest.raises(ValueError, match="does not answer as an Orthanc"):
        peers.instances_of("PEER", ["a"])


def test_a_peer_is_asked_for_instances_in_lists_of_a_hundred(script: ModuleType, node: HttpNode) -> None:
    node.respond = answer_json([{"ID": "1"}, {"ID": "of somebody else"}])
    peers = script.Peers({}, Knows({"Url": f"{node.url}/orthanc/"}))
    assert peers.instances_of("PEER", [str(number) for number in range(250)]) == {"1"}
    assert len(node.requests("POST", "/orthanc/tools/bulk-content")) == 3


def test_what_a_series_lists_there_is_not_asked_for_again_and_what_it_does_not_list_is(
    script: ModuleType, node: HttpNode
) -> None:
    asked = list[dict[str, Any]]()

    def answer(request: HttpRequest) -> HttpAnswer:
        asked.append(json.loads(request.body))
        whole = [{"ID": "series", "Instances": ["1", "2", "of somebody else"]}]
        return answer_json(whole if asked[-1].get("Level") == "Series" else [{"ID": "4"}])(request)

    node.respond = answer
    peers = script.Peers({}, Knows({"Url": node.url}))
    assert peers.instances_of("PEER", ["1", "2"], ["study"]) == {"1", "2"}
    assert [each["Resources"] for each in asked] == [["study"]]
    assert peers.instances_of("PEER", ["1", "2", "3", "4"], ["study"]) == {"1", "2", "4"}
    assert [sorted(each["Resources"]) for each in asked[1:]] == [["study"], ["3", "4"]]


@pytest.mark.parametrize("whole", [b"[" * 5_000_000, b"[]", b'[{"ID": "series"}]', b"<html>"], ids=len)
def test_a_peer_whose_series_can_not_be_read_is_asked_for_each_instance(
    script: ModuleType, node: HttpNode, whole: bytes
) -> None:
    def answer(request: HttpRequest) -> HttpAnswer:
        by_series = json.loads(request.body).get("Level") == "Series"
        return HttpAnswer(200, whole) if by_series else answer_json([{"ID": "1"}])(request)

    node.respond = answer
    peers = script.Peers({}, Knows({"Url": node.url}))
    assert peers.instances_of("PEER", ["1", "2"], ["study"]) == {"1"}


def test_an_https_proxy_is_left_to_orthanc(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    system = b'{"ApiVersion": 18, "DicomAet": "PEER", "Version": "1.10.1"}'
    knows = Knows({"Url": "http://peer.example/"}, system)
    script.Peers({"HttpProxy": "socks5://127.0.0.1:9"}, knows).check("PEER")
    assert knows.asked == 1


# What the worker does with it


def test_a_destination_is_right_only_after_a_check_and_no_more_after_it_failed(script: ModuleType) -> None:
    wake, go_on, answers = threading.Event(), threading.Event(), [""]

    def check(_name: str) -> None:
        go_on.wait(5)
        if answers[0]:
            raise script.MisconfiguredError(answers[0])

    identity = script.Identity("PEER", check, wake)
    assert not identity.is_right()  # nothing is known yet
    go_on.set()
    wait_until(identity.is_right)
    answers[0] = "it is a printer"
    assert identity.is_right()  # for a minute
    identity.doubt()
    wait_until(lambda: not identity.is_right())
    wait_until(lambda: identity.wrong == "it is a printer")
    assert not identity.is_right()


def test_a_check_that_began_before_the_settings_changed_counts_for_nothing(script: ModuleType) -> None:
    go_on, asked = threading.Event(), list[str]()

    def check(name: str) -> None:
        asked.append(name)
        go_on.wait(5)

    identity = script.Identity("PEER", check, threading.Event())
    identity.is_right()
    wait_until(lambda: asked)
    time.sleep(0.01)
    identity.doubt()
    go_on.set()
    wait_until(identity.is_right)
    assert len(asked) == 2


def test_a_destination_without_a_check_is_always_right(script: ModuleType) -> None:
    assert script.Identity("NODE", None, threading.Event()).is_right()


def test_questions_of_one_destination_never_wait_for_another_and_rows_share_them(script: ModuleType) -> None:
    stuck, asked = threading.Event(), list[tuple[str, int]]()

    def has(destination: str, instances: list[str], _whole: list[str]) -> set[str]:
        if destination == "STUCK":
            stuck.wait(10)
        asked.append((destination, len(instances)))
        return {each for each in instances if not each.startswith("lost")}

    verifier = script.Verifier(has, Knows({}), threading.Event())
    verifier.add("STUCK", 1, script.Asked(("a",)))
    for row in range(2, 12):
        verifier.add("WELL", row, script.Asked((*(f"{row}-{number}" for number in range(20)), "lost")))
        verifier.add("WELL", row, script.Asked(("twice",)))  # asked for already
    wait_until(lambda: len(verifier.answers) == 10)
    assert verifier.number("STUCK") == 1
    answers = [verifier.take() for _ in range(10)]
    assert sorted(answer.row for answer in answers) == list(range(2, 12))
    assert {answer.missing for answer in answers} == {("lost",)}
    assert max(number for _, number in asked) > 50
    assert verifier.is_under_way(1)
    assert not verifier.is_under_way(2)
    stuck.set()
    wait_until(lambda: verifier.answers)


class Archive:
    """A loopback to an Orthanc with three studies: of two series, of one, and of one that is too large to be asked for whole.

    The first two are of one patient, `p`.
    """

    def __init__(self, large: int) -> None:
        self.large, self.asked = large, 0

    def post(self, path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        assert (path, body["Level"]) == ("/tools/bulk-content", "Series")
        self.asked += 1
        series = {"a1": ("a", ["1", "2"]), "a2": ("a", ["3"]), "b1": ("b", ["4"])}
        series["c1"] = ("c", [f"large {number}" for number in range(self.large)])
        return [
            {"ID": each, "ParentStudy": study, "Instances": instances}
            for each, (study, instances) in series.items()
            if {each, study, "p" if study in "ab" else ""} & {*body["Resources"]}
        ]


def test_all_that_a_study_or_series_has_here_is_asked_for_in_one_question(script: ModuleType) -> None:
    questions, archive = list[tuple[int, list[str]]](), Archive(script.LARGEST_WHOLE + 1)

    def has(_destination: str, instances: list[str], whole: list[str]) -> set[str]:
        questions.append((len(instances), whole))
        return {*instances} - {"3"}

    verifier = script.Verifier(has, archive, threading.Event())
    for row, whole in enumerate(("a", "b1", "a2", "c", "gone")):
        verifier.add("PEER", row, script.Asked((), whole))
    verifier.add("PEER", 5, script.Asked(("9",)))
    wait_until(lambda: len(verifier.answers) == 6)
    answers = [verifier.take() for _ in range(6)]
    assert [len(answer.asked) for answer in answers] == [3, 1, 1, script.LARGEST_WHOLE + 1, 0, 1]
    assert [answer.missing for answer in answers] == [("3",), (), ("3",), (), (), ()]
    assert questions == [(script.LARGEST_WHOLE + 6, ["a", "b1", "a2", "gone"])]
    assert archive.asked == 1
    verifier.add("PEER", 6, script.Asked((), "p", "Patient"))
    verifier.add("PEER", 7, script.Asked((), "b", "Study"))
    wait_until(lambda: len(verifier.answers) == 2)
    assert [verifier.take().asked for _ in range(2)] == [("1", "2", "3", "4"), ("4",)]


def test_one_row_that_can_not_be_proved_fails_no_other_that_shares_its_question(script: ModuleType) -> None:
    def has(_destination: str, instances: list[str], _whole: list[str]) -> set[str]:
        if "strange" in instances:
            raise ValueError("it has the UID, but of another patient")
        return {*instances}

    verifier = script.Verifier(has, Knows({}), threading.Event())
    for row, name in enumerate(("1", "2", "strange", "4")):
        verifier.add("PEER", row, script.Asked((name,)))
    wait_until(lambda: len(verifier.answers) == 4)
    answers = {answer.row: answer.error for answer in (verifier.take() for _ in range(4))}
    assert answers == {0: "", 1: "", 2: "it has the UID, but of another patient", 3: ""}


def test_rows_are_not_settled_where_this_orthanc_does_not_answer(script: ModuleType) -> None:
    class Away:
        def post(self, _path: str, _body: object) -> None:
            raise OSError("connection refused")

    verifier = script.Verifier(lambda *_: set(), Away(), threading.Event())
    verifier.add("PEER", 1, script.Asked((), "a"))
    wait_until(lambda: verifier.answers)
    answer = verifier.take()
    assert answer.error == "connection refused"
