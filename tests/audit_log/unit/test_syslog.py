# SPDX-License-Identifier: AGPL-3.0-or-later
"""audit_log and an audit repository, without a server: which message fits which line, and that none is left out unsaid."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from testing.standin import StandIn
from tests.audit_log.atna import check_element, code, details, objects, parsed
from tests.audit_log.unit.test_guards import KEY, part
from tests.fakes import Script, eventually

AT = "2026-01-31T12:00:00.000Z"
PLACE = {"Study": "a1", "StudyInstanceUID": "1.2.3", "Patient": "P1"}
BOB = {"User": "bob", "IP": "10.0.0.7"}


class Receiver:
    """Takes messages, or fails."""

    url = "tls://atna:6514"

    def __init__(self) -> None:
        self.got: list[Xml.Element] = []
        self.error: Exception | None = None

    def send(self, messages: Sequence[bytes]) -> None:
        if self.error:
            raise self.error
        self.got += [parsed(each) for each in messages]

    def cut(self) -> None:
        pass


class Sending:
    """A log, a ledger and a sender that a test drives itself."""

    def __init__(self, folder: Path, *, max_bytes: int = 10**6) -> None:
        self.receiver = Receiver()
        self.ledger = part("repository").Ledger(folder / "audit_log.sqlite")
        self.log = part("log").Log(folder / "log", KEY.encode(), max_bytes, sync=False)

    def open(self) -> Any:
        messages = part("dicom_audit").AuditMessages("OURS", "ORTHANC", "machine")
        return part("repository").RepositorySender(self.receiver, messages, "machine", self.log, self.ledger)

    def write(self, count: int) -> None:
        for _ in range(count):
            self.log.append([{"At": AT, "Event": "received", **PLACE, "From": {"RemoteAET": "CT"}}])

    def numbers(self) -> list[int]:
        return [int(details(each)["Number"]) for each in self.receiver.got]


@pytest.fixture
def sending(start: Callable[..., Script], tmp_path: Path) -> Sending:
    start("audit_log", {"AuditLog": {"Key": KEY}})
    return Sending(tmp_path / "mine")


def message_of(line: dict[str, Any]) -> Xml.Element | None:
    text = part("dicom_audit").AuditMessages("OURS", "ORTHANC", "machine").of({"Number": 7, "At": AT, **line})
    if text is None:
        return None
    found = Xml.fromstring(text)
    check_element(found)
    return found


LINES: list[tuple[dict[str, Any], str]] = [
    ({"Event": "started"}, "110100 E"),
    ({"Event": "stopped"}, "110100 E"),
    ({"Event": "received", **PLACE, "From": {"Origin": "DicomProtocol", "RemoteAET": "CT"}}, "110104 C"),
    (
        {"Event": "received", **PLACE, "From": {"Origin": "RestApi", "HttpUsername": "bob", "RemoteIP": "::1"}},
        "110107 C",
    ),
    ({"Event": "received", **PLACE, "From": {"Origin": "Plugins"}, "Count": 3, "Since": AT}, "110104 C"),
    ({"Event": "received", **PLACE, "From": {}, "Made": "modified"}, "110103 C"),
    ({"Event": "sent", **PLACE, "To": "PACS", "MoveOriginator": "VIEWER", "Job": "j", "Result": "success"}, "110104 C"),
    ({"Event": "sent", "To": "https://cloud/", "Job": "j", "Result": "failure", "Error": "away"}, "110104 C"),
    ({"Event": "archived", **PLACE, "Job": "j", "Result": "success"}, "110106 R"),
    (
        {"Event": "deleted", **PLACE, "Level": "Study", "By": {"Script": "purge", "AskedBy": {"User": "bob"}}},
        "110105 D",
    ),
    ({"Event": "deleted", **PLACE, "Level": "Study"}, "110105 D"),
    ({"Event": "deleted", **PLACE, "Level": "Series", "By": BOB}, "110103 D"),
    ({"Event": "retrieve-attempt", **PLACE, **BOB, "Method": "GET", "Route": "/instances/1/preview"}, "110103 R"),
    ({"Event": "retrieve-attempt", **PLACE, "Script": "series_thumbnail", "Route": "/instances/1/file"}, "110103 R"),
    ({"Event": "retrieve-attempt", **PLACE, **BOB, "Method": "GET", "Route": "/instances/1/file"}, "110106 R"),
    ({"Event": "retrieve-attempt", **BOB, "User": "", "Method": "GET", "Route": "/studies/1/archive"}, "110106 R"),
    ({"Event": "retrieve-attempt", **BOB, "Method": "GET", "Route": "/dicom-web/studies"}, "110112 E"),
    (
        {"Event": "retrieve-attempt", **PLACE, **BOB, "Method": "GET", "Route": "/dicom-web/studies/1.2.3/series"},
        "110112 E",
    ),
    ({"Event": "retrieve-attempt", **BOB, "Method": "GET", "Route": "/audit-log"}, "110101 R"),
    ({"Event": "post-attempt", **BOB, "Method": "POST", "Route": "/tools/find"}, "110112 E"),
    ({"Event": "post-attempt", **BOB, "Method": "POST", "Route": "/tools/create-archive"}, "110106 R"),
    # Uploads have lines `received`; the others fit no message.
    ({"Event": "post-attempt", **BOB, "Method": "POST", "Route": "/instances"}, ""),
    ({"Event": "post-attempt", **BOB, "Method": "POST", "Route": "/dicom-web/studies"}, ""),
    ({"Event": "put-attempt", **BOB, "Method": "PUT", "Route": "/modalities/X"}, ""),
    ({"Event": "delete-attempt", **PLACE, **BOB, "Method": "DELETE", "Route": "/studies/1"}, ""),
    ({"Event": "deleted", "Level": "Patient", "Patient": "P1"}, ""),
    ({"Event": "deleted", "Level": "Instance"}, ""),
    ({"Event": "deleted", "Level": "Study"}, ""),
    ({"Event": "modified", **PLACE, "Made": "b2"}, ""),
    *(({"Event": event}, "") for event in ("job", "moved", "continued", "recovered", "dropped", "lost")),
]


@pytest.mark.parametrize(("line", "wanted"), LINES, ids=[f"{n}-{line['Event']}" for n, (line, _) in enumerate(LINES)])
def test_each_line_has_the_message_that_fits_or_none(sending: Sending, line: dict[str, Any], wanted: str) -> None:
    message = message_of(line)
    if message is None:
        assert wanted == ""
        return
    [event] = message.iter("EventIdentification")
    assert f"{code(message)} {event.attrib['EventActionCode']}" == wanted
    assert event.attrib["EventOutcomeIndicator"] == ("8" if line.get("Result") == "failure" else "0")
    if code(message) != "110100":
        assert details(message)["Number"] == "7"
    if "StudyInstanceUID" in line:
        assert (objects(message)["110180"], objects(message)["2"]) == ("1.2.3", "P1")
    if code(message) in ("110106", "110107"):  # A.5.3.4 and A.5.3.5: one medium
        assert len(list(message.iter("MediaType"))) == 1
    if code(message) in ("110104", "110112"):
        assert {code(each, "RoleIDCode") for each in message.iter("ActiveParticipant")} >= {"110152", "110153"}


def test_who_asked_a_script_to_delete_is_in_the_message(sending: Sending) -> None:
    by = {"Script": "purge_old_studies", "AskedBy": {"User": "bob", "Purge": 3}}
    message = message_of({"Event": "deleted", **PLACE, "Level": "Study", "By": by})
    assert message is not None
    found = [(each.attrib["UserID"], each.attrib["UserIsRequestor"]) for each in message.iter("ActiveParticipant")]
    assert found == [("purge_old_studies", "false"), ("bob", "true")]


def test_no_value_breaks_the_xml_or_the_datagram(sending: Sending) -> None:
    odd = 'a\x00\x1b\ud800<&">\uffff\U0001f9e0' + "\U0001f9e0" * 70_000
    fields = dict.fromkeys(("User", "IP", "ForwardedFor", "Patient", "StudyInstanceUID", "Study"), odd)
    line = {"Event": "retrieve-attempt", "At": AT, "Number": 1, "Method": "GET", **fields, "Route": f"/{odd}/file"}
    text = part("dicom_audit").AuditMessages(odd, "ORTHANC", "machine").of(line)
    raw = part("syslog").syslog_message(AT, "ma chine\u00e9", text)
    parsed(raw)
    assert len(raw) < 65_000


def test_lines_go_in_order_once_and_are_read_on_after_a_restart(sending: Sending, tmp_path: Path) -> None:
    first = sending.open()
    sending.write(130)
    assert first._sends_all()
    assert sending.numbers() == list(range(1, 131))
    sending.write(3)
    second = sending.open()
    assert second._sends_all()
    assert sending.numbers() == list(range(1, 134))
    assert second.owed() == 0


def test_over_several_files_none_is_left_out(start: Callable[..., Script], tmp_path: Path) -> None:
    start("audit_log", {"AuditLog": {"Key": KEY}})
    sending = Sending(tmp_path / "mine", max_bytes=1500)
    sender = sending.open()
    sending.write(20)
    assert len(part("lines").log_files(sending.log.folder)) > 3
    assert sender._sends_all()
    files = part("lines").log_files(sending.log.folder)
    entries = [entry for path in files for entry in part("lines").entries_of(path)]
    events = [entry for entry in entries if entry["Event"] == "received"]
    assert sending.numbers() == [entry["Number"] for entry in events]
    assert sender.owed() == 0


def test_lines_whose_file_is_dropped_before_they_were_sent_are_told_of(
    start: Callable[..., Script], tmp_path: Path, orthanc_standin: StandIn
) -> None:
    start("audit_log", {"AuditLog": {"Key": KEY}})
    sending = Sending(tmp_path / "mine", max_bytes=1500)
    sender = sending.open()
    sending.write(20)
    oldest, following, *_ = part("lines").log_files(sending.log.folder)
    count = int(following.stem.removeprefix("audit-")) - 1
    oldest.unlink()
    assert sender._sends_all()
    said = f"audit_log: {count} lines were gone from the files before they were sent to tls://atna:6514"
    assert ("warning", said) in orthanc_standin.logs
    assert sending.numbers()[0] > count
    assert sender.owed() == 0


def test_a_line_that_may_yet_be_taken_back_is_not_sent(sending: Sending) -> None:
    """A full disk takes back what it has half written."""
    sender = sending.open()
    sending.write(3)
    sending.log.number = 2
    assert sender._sends_all()
    assert sending.numbers() == [1, 2]
    sending.log.number = 3
    assert sender._sends_all()
    assert sending.numbers() == [1, 2, 3]


def test_what_was_there_before_is_not_sent_and_the_log_says_so(sending: Sending, orthanc_standin: StandIn) -> None:
    sending.write(4)
    sender = sending.open()
    assert (
        "warning",
        f"audit_log sends its lines to {sender.url} from number 5 on; the older ones stay in the files",
    ) in (orthanc_standin.logs)
    sending.write(1)
    assert sender._sends_all()
    assert sending.numbers() == [5]
    sending.ledger.set_value("syslog_sent", 900)  # another log is in the folder now
    assert sending.open().sent == 5


def test_a_repository_that_is_away_is_said_once_whatever_the_reasons_are(
    sending: Sending, orthanc_standin: StandIn
) -> None:
    sender = sending.open()
    sending.write(60)
    for reason in (
        ConnectionRefusedError("refused"),
        TimeoutError("timed out"),
        ValueError("odd name"),
        KeyError("bug"),
    ):
        sending.receiver.error = reason
        assert not sender._sends_all()
    assert sender.sent == 0
    sending.receiver.error = None
    assert sender._sends_all()
    said = [text for level, text in orthanc_standin.logs if level in ("error", "warning") and "audit_log" in text]
    away = [text for text in said if "can't send" in text or "goes on, this is over" in text]
    assert away == [
        "audit_log can't send to tls://atna:6514, lines wait in the files: refused",
        "audit_log goes on, this is over: refused",
    ]
    assert sending.numbers() == list(range(1, 61))


def test_what_was_sent_is_not_sent_again_because_the_ledger_is_full(
    sending: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = sending.open()
    sending.write(3)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(sending.ledger, "set_value", full)
        assert not sender._sends_all()
        assert not sender._sends_all()
    assert sender._sends_all()
    assert sending.numbers() == [1, 2, 3]
    assert sending.ledger.get_value("syslog_sent") == 3


def test_an_odd_line_keeps_no_other_back(sending: Sending, orthanc_standin: StandIn) -> None:
    sender = sending.open()
    sending.log.append([{"At": AT, "Event": "received", "From": "odd"}])
    sending.write(2)
    assert sender._sends_all()
    assert sending.numbers() == [2, 3]
    assert [text for level, text in orthanc_standin.logs if level == "error" and "please report" in text]


def test_the_end_waits_a_second_at_most_for_a_repository_that_hangs(sending: Sending) -> None:
    sender = sending.open()
    is_cut = threading.Event()
    sending.receiver.cut = is_cut.set  # type: ignore[method-assign]

    def hang(_: object) -> None:
        eventually(is_cut.is_set, 20)
        raise OSError("cut")

    sending.receiver.send = hang  # type: ignore[method-assign,assignment]
    sending.write(1)
    sender.start()
    sender.stop()
    assert is_cut.is_set()
    assert not sender._thread.is_alive()
    assert sender.sent == 0


HOST = {"Host": "atna"}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"To": "sylog"}, 'AuditLog.To: found "sylog", allowed: one of "syslog"'),
    ({"To": "syslog"}, "AuditLog.Syslog.Host is needed"),
    ({"Syslog": HOST}, "AuditLog.Syslog has no effect without AuditLog.To"),
    ({"To": "syslog", "Syslog": {"Host": "tls://atna:6514"}}, "AuditLog.Syslog.Host: found"),
    ({"To": "syslog", "Syslog": {**HOST, "Protocol": "tcp"}}, 'allowed: one of "tls", "udp"'),
    ({"To": "syslog", "Syslog": {**HOST, "Port": 0}}, "AuditLog.Syslog.Port: found 0"),
    ({"To": "syslog", "Syslog": {**HOST, "CaFle": "x"}}, "AuditLog.Syslog.CaFle is not a known key (did you mean CaFile?)"),
    ({"To": "syslog", "Syslog": {**HOST, "Protocol": "udp", "CaFile": "x"}}, 'AuditLog.Syslog.Protocol: found "udp" with files'),
    ({"To": "syslog", "Syslog": {**HOST, "KeyFile": "x"}}, "AuditLog.Syslog.CertificateFile is needed"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "said"), WRONG)
def test_keys_that_can_not_be_are_one_error_that_says_what_is_allowed(
    start: Callable[..., Script], orthanc_standin: StandIn, section: dict[str, Any], said: str
) -> None:
    start("audit_log", {"AuditLog": {"Key": KEY, **section}})
    [error] = [text for level, text in orthanc_standin.logs if level == "error"]
    assert said in error
    assert error.endswith("audit_log is idle until this is corrected.")
    assert json.loads(orthanc_standin.http("GET", "/audit-log").text)["Message"] == error
