# SPDX-License-Identifier: AGPL-3.0-or-later
"""audit_log: each line follows the one before and carries the MAC of both, so that whatever is changed shows."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KEY = b"a key of more than thirty-two characters"
Changed = Callable[[list[bytes]], list[bytes]]


@pytest.fixture(scope="module")
def lines(source_for_module: Any) -> Any:
    return source_for_module("audit_log.lines")


@pytest.fixture(scope="module")
def verification(source_for_module: Any) -> Any:
    return source_for_module("audit_log.verification")


def mac(previous: str, text: bytes) -> str:
    return hmac.new(KEY, previous.encode() + b"\n" + text, hashlib.sha256).hexdigest()


def log_of(*entries: dict[str, Any], previous: str = "", first: int = 1) -> list[bytes]:
    """The raw lines of a log, each with the MAC of the one before and of itself."""
    found = []
    for number, entry in enumerate(entries, start=first):
        text = json.dumps({"Number": number, **entry}).encode()[:-1]
        previous = mac(previous, text)
        found.append(text + f', "Mac": "{previous}"}}'.encode())
    return found


def some_entries(number: int) -> list[dict[str, Any]]:
    return [{"Event": "test", "Study": f"s{each}"} for each in range(number)]


def verified(verification: Any, raws: list[bytes], newest: tuple[int, str] | None = None) -> list[str]:
    found = verification.Verification(KEY, newest)
    for position, raw in enumerate(raws, start=1):
        found.check_raw(f"line {position}", raw)
    found.end("file")
    problems: list[str] = found.problems
    return problems


def test_the_mac_of_a_line_is_of_the_line_and_of_the_mac_before(lines: Any) -> None:
    assert lines.mac_of(KEY, "ab", b"text") == mac("ab", b"text")
    found = {lines.mac_of(*each) for each in itertools.product((b"k", b"l"), ("", "a"), (b"", b"x"))}
    assert len(found) == 8


def test_a_line_is_its_text_its_content_and_its_mac(lines: Any) -> None:
    [raw] = log_of({"Event": "test"})
    line = lines.parse_line(raw)
    assert line.text == b'{"Number": 1, "Event": "test"'
    assert line.mac == mac("", line.text)
    assert line.content == {"Number": 1, "Event": "test", "Mac": line.mac}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b'{"Number": 1}',
        b'{"Number": 1, "Mac": "%s"}' % (b"0" * 63),
        b'{"Number": 1, "Mac": "%s"}' % (b"A" * 64),
        b'{"Number": 1, "Mac": "%s"} ' % (b"0" * 64),
        b'{"Number": 1,, "Mac": "%s"}' % (b"0" * 64),
        b'{"Number": "1", "Mac": "%s"}' % (b"0" * 64),
        b'{"Event": "x", "Mac": "%s"}' % (b"0" * 64),
        b'[{"Number": 1, "Mac": "%s"}' % (b"0" * 64),
        b'{"Number": 1, "x": "\xff", "Mac": "%s"}' % (b"0" * 64),
    ],
)
def test_what_is_no_line_is_none(lines: Any, raw: bytes) -> None:
    assert lines.parse_line(raw) is None


def test_a_file_gives_its_whole_lines_and_one_that_is_gone_none(lines: Any, tmp_path: Path) -> None:
    first, second, third = log_of(*some_entries(3))
    path = tmp_path / "audit-000000000001.jsonl"
    path.write_bytes(b"\n".join([first, b"spoilt", second, third]))  # the last is not ended: it may be cut
    assert [entry["Number"] for entry in lines.entries_of(path)] == [1, 2]
    assert [*lines.entries_of(tmp_path / "none")] == []
    (tmp_path / "audit-000000000000.jsonl").touch()
    (tmp_path / "other.jsonl").touch()
    assert lines.log_files(tmp_path) == [tmp_path / "audit-000000000000.jsonl", path]


@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_a_log_that_nobody_changed_is_right(verification: Any, number: int) -> None:
    raws = log_of(*some_entries(number))
    assert verified(verification, raws) == []
    if number:
        newest = json.loads(raws[-1])
        assert verified(verification, raws, (number, newest["Mac"])) == []
        assert verified(verification, [*raws, log_of({}, first=number + 1, previous=newest["Mac"])[0]]) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raws: raws[1:], ["number 1 is missing at the beginning"]),
        (lambda raws: raws[2:], ["numbers 1 to 2 are missing at the beginning"]),
        (lambda raws: [raws[0], *raws[2:]], ["line 2: number 2 is missing"]),
        (lambda raws: [raws[0], *raws[3:]], ["line 2: numbers 2 to 3 are missing"]),
        (lambda raws: [raws[0], *raws], ["line 2: number 1 comes after 1"]),
        (lambda raws: [*raws[:3], raws[1], *raws[3:]], ["line 4: number 2 comes after 3", "line 5: number 3 is missing"]),
        (
            lambda raws: [raws[0], raws[1].replace(b"s1", b"s9"), *raws[2:]],
            ["line 2: number 2 has been changed (or the key is another)"],
        ),
        (
            lambda raws: [raws[0], raws[1].replace(b'"Mac": "', b'"Mac": "0')[:-3] + b'"}', *raws[2:]],
            [
                "line 2: number 2 has been changed (or the key is another)",
                "line 3: number 3 has been changed (or the key is another)",
            ],
        ),
        (
            lambda raws: [*raws[:2], b"spoilt", *raws[2:]],
            ["line 4: the line before it has been changed, or is none of the log"],
        ),
        (
            lambda raws: [*raws[:2], b"spoilt", b"too", *raws[2:]],
            ["line 4: it is no line of the log", "line 5: the line before it has been changed, or is none of the log"],
        ),
        (lambda raws: [*raws, b"cut"], ["file: its last line is cut"]),
    ],
)  # fmt: skip
def test_whatever_is_changed_shows_and_where(verification: Any, change: Changed, said: list[str]) -> None:
    raws = log_of(*some_entries(5))
    found = verified(verification, change(raws))
    if change(raws)[0] == raws[1] or change(raws)[0] == raws[2]:  # the first line left does not say what it follows
        assert found[-1:] == said
        assert found[0].startswith("line 1: number ")
        assert len(found) == 2
    else:
        assert found == said


def test_a_line_that_says_what_was_spoilt_before_it_makes_that_right_and_no_other(verification: Any) -> None:
    [first] = log_of({"Event": "test"})
    before = json.loads(first)["Mac"]
    spoilt = hashlib.sha256(b"spoilt").hexdigest()
    [after] = log_of({"Event": "continued", "Broken": spoilt}, previous=before, first=2)
    assert verified(verification, [first, b"spoilt", after]) == []
    assert verified(verification, [first, b"other", after]) == [
        "line 3: the line before it has been changed, or is none of the log"
    ]
    # It speaks of one place alone.
    [third] = log_of({"Event": "test"}, previous=json.loads(after)["Mac"], first=3)
    assert verified(verification, [first, b"spoilt", after, b"spoilt", third]) == [
        "line 5: the line before it has been changed, or is none of the log"
    ]


def test_files_that_were_dropped_are_missed_unless_the_log_says_that_they_were(verification: Any) -> None:
    def log_from(first: int, up_to: int | None, more: int | None = None) -> list[bytes]:
        entries: list[dict[str, Any]] = [{"Event": "continued", "Previous": "ab"}]
        entries += [{"Event": "dropped", "UpTo": each} for each in (up_to, more) if each is not None]
        return log_of(*entries, previous="ab", first=first)

    assert verified(verification, log_from(5, 4)) == []
    assert verified(verification, log_from(5, 4, more=2)) == []
    assert verified(verification, log_from(5, 2, more=4)) == []
    assert verified(verification, log_from(5, 7)) == []
    assert verified(verification, log_from(5, 3)) == ["number 4 is missing at the beginning"]
    assert verified(verification, log_from(5, 2)) == ["numbers 3 to 4 are missing at the beginning"]
    assert verified(verification, log_from(5, None)) == ["numbers 1 to 4 are missing at the beginning"]
    assert verified(verification, log_from(2, None)) == ["number 1 is missing at the beginning"]
    assert verified(verification, log_from(1, None)) == ["line 1: number 1 has been changed (or the key is another)"]


def test_only_what_says_dropped_accounts_for_lines_that_are_missing(verification: Any) -> None:
    raws = log_of({"Event": "continued", "Previous": "ab", "UpTo": 4}, previous="ab", first=5)
    assert verified(verification, raws) == ["numbers 1 to 4 are missing at the beginning"]


def test_the_line_that_was_the_newest_must_be_there_as_it_was(verification: Any) -> None:
    raws = log_of(*some_entries(4))
    macs = [json.loads(raw)["Mac"] for raw in raws]
    assert verified(verification, raws, (4, macs[3])) == []
    assert verified(verification, raws, (2, macs[1])) == []
    for number, other in ((2, macs[2]), (4, "0" * 64)):
        assert verified(verification, raws, (number, other)) == [
            f"line {number}: number {number} is not the line that was the newest then"
        ]
    assert verified(verification, raws, (5, "0" * 64)) == ["number 5 is missing at the end"]
    assert verified(verification, raws, (7, "0" * 64)) == ["numbers 5 to 7 are missing at the end"]
    assert verified(verification, [], (1, macs[0])) == ["number 1 is missing at the end"]


def test_the_command_says_what_is_wrong_and_the_newest_line(
    verification: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raws = log_of(*some_entries(3))
    newest = json.loads(raws[-1])["Mac"]
    (tmp_path / "key").write_bytes(KEY + b"\n")
    path = tmp_path / "audit-000000000001.jsonl"
    words = ["--verify", str(tmp_path), "--key-file", str(tmp_path / "key")]
    path.write_bytes(b"\n".join([*raws, b""]))
    assert verification.main([*words, "--newest", f"3:{newest}"]) == 0
    assert capsys.readouterr().out == f"ok: 3 lines, the newest is 3:{newest}\n"
    assert verification.main([*words, "--newest", f"4:{newest}"]) == 1
    assert capsys.readouterr().out == f"number 4 is missing at the end\nWRONG: 3 lines, the newest is 3:{newest}\n"
    path.write_bytes(b"\n".join([raws[0], b"", raws[2], b""]))
    assert verification.main(words) == 1
    assert capsys.readouterr().out.startswith(f"{path.name}, line 3: number 2 is missing\n")


def test_the_command_says_whether_the_key_or_the_log_is_not_there(
    verification: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUDIT_LOG_KEY", KEY.decode())
    assert verification.main(["--verify", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"no log in {tmp_path}\n"
    (tmp_path / "audit-000000000001.jsonl").touch()
    assert verification.main(["--verify", str(tmp_path)]) == 0
    monkeypatch.setenv("AUDIT_LOG_KEY", "short")
    assert verification.main(["--verify", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "no key: --key-file or AUDIT_LOG_KEY\n"


def test_a_last_line_that_is_cut_is_named_with_its_file(verification: Any, tmp_path: Path) -> None:
    first, second = log_of(*some_entries(2))
    path = tmp_path / "audit-000000000001.jsonl"
    path.write_bytes(first + b"\n")
    last = tmp_path / "audit-000000000002.jsonl"
    last.write_bytes(second[:-5])
    assert verification.verify([path, last], KEY) == (
        [f"{last.name}: its last line is cut"],
        1,
        json.loads(first)["Mac"],
    )
    assert verification.verify([], KEY) == ([], 0, "")


@pytest.mark.parametrize("text", ["12", ":", "x:" + "0" * 64, "1:" + "0" * 63, "1:" + "0" * 65, "-1:" + "0" * 64, ""])
def test_words_that_say_no_folder_or_no_line_are_refused(
    verification: Any, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    for words, said in ((["--verify", "x", f"--newest={text}"], "it must be NUMBER:MAC"), ([], "required: --verify")):
        with pytest.raises(SystemExit) as ended:
            verification.main(words)
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


# What waits to be written


class Log:
    """A log that keeps what it is given, unless the disk is full."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.dropped: list[str] = []
        self.is_full = False

    def append(self, lines: list[Any]) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")
        self.lines += lines

    def drop_before(self, moment: str) -> None:
        self.dropped.append(moment)


class Expiry:
    def __init__(self, may: bool) -> None:
        self.may, self.asked = may, 0

    def may_delete(self) -> bool:
        self.asked += 1
        return self.may


@pytest.fixture
def writer(source: Any) -> Any:
    return source("audit_log.writer")


def test_lines_are_kept_until_the_log_has_them(writer: Any, clock: Any) -> None:
    log = Log()
    found = writer.LineWriter(log, None, Expiry(True))
    began = found.wrote_at
    found.add("t1", "started")
    found.add("t2", "sent", {"IP": "10.0.0.7"}, Study="s1")
    wanted = [{"At": "t1", "Event": "started"}, {"At": "t2", "Event": "sent", "IP": "10.0.0.7", "Study": "s1"}]
    log.is_full = True
    clock.advance(5)
    with pytest.raises(OSError, match="No space"):
        found.write()
    assert (found.lines, found.wrote_at) == (wanted, began)
    log.is_full = False
    found.write()
    assert (log.lines, found.lines, found.wrote_at) == (wanted, [], began + 5)
    clock.advance(5)
    found.write()
    assert (log.lines, found.wrote_at) == (wanted, began + 5)


def test_files_are_dropped_for_their_age_once_an_hour_and_only_where_that_is_wanted_and_safe(
    writer: Any, clock: Any
) -> None:
    log, expiry = Log(), Expiry(True)
    found = writer.LineWriter(log, 2.0, expiry)
    found.write()
    assert log.dropped == [writer.utc(clock.now - 2 * 86400)]
    clock.advance(3600)
    found.write()
    assert expiry.asked == 1
    clock.advance(1)
    expiry.may = False
    found.write()
    assert expiry.asked == 2
    clock.advance(3601)
    expiry.may = True
    found.write()
    assert log.dropped[1:] == [writer.utc(clock.now - 2 * 86400)]
    kept = writer.LineWriter(log, None, expiry)
    kept.write()
    assert (expiry.asked, len(log.dropped)) == (3, 2)


def test_a_clock_in_1970_drops_nothing_from_before_it(writer: Any, clock: Any) -> None:
    log = Log()
    clock.now = 100.0
    writer.LineWriter(log, 2.0, Expiry(True)).write()
    assert log.dropped == ["1970-01-01T00:00:00.000Z"]


def test_many_events_of_a_kind_are_a_line_and_then_their_number(writer: Any, clock: Any) -> None:
    log = Log()
    found = writer.LineWriter(log, None, Expiry(True))
    entry = {"At": "t1", "Event": "retrieve-attempt"}
    assert not found.counts(("k",))
    assert [found.add_or_count(("k",), dict(entry)) for _ in range(3)] == [True, False, False]
    assert found.counts(("k",))
    assert not found.counts(("l",))
    found.add_counts()
    assert len(found.lines) == 1
    found.add_counts(everything=True)
    assert len(found.lines) == 2
    assert found.lines[1]["Count"] == 3
