# SPDX-License-Identifier: AGPL-3.0-or-later
"""audit_log without a server: what is missing from a log shows, and what happens is in it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, Script, eventually

KEY = "a key of more than thirty-two characters"


@pytest.fixture
def audit(start: Callable[..., Script], clock: Clock) -> Script:
    return start("audit_log", {"AuditLog": {"Key": KEY, "WatchRequests": True}})


def part(name: str) -> Any:
    """Return a module of the script that is loaded now."""
    return importlib.import_module(f"audit_log.{name}")


def written(audit: Script, folder: Path, count: int, *, max_bytes: int = 10**6) -> list[Path]:
    log = part("log").Log(folder, KEY.encode(), max_bytes, sync=False)
    for number in range(count):
        log.append([{"At": part("log").utc(), "Event": "test", "Study": f"s{number}"}])
    log.close()
    files: list[Path] = part("lines").log_files(folder)
    return files


def verified(audit: Script, folder: Path) -> list[str]:
    problems: list[str] = part("verification").verify(part("lines").log_files(folder), KEY.encode())[0]
    return problems


def remove_lines(path: Path, count: int) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[count:]))


@pytest.mark.parametrize(("count", "said"), [(1, "number 1 is"), (2, "numbers 1 to 2 are")])
def test_verify_reports_missing_first_lines(audit: Script, tmp_path: Path, count: int, said: str) -> None:
    [path] = written(audit, tmp_path / "log", 5)
    assert verified(audit, tmp_path / "log") == []
    remove_lines(path, count)
    assert f"{said} missing at the beginning" in verified(audit, tmp_path / "log")


def test_verify_reports_a_missing_first_file_though_all_macs_are_right(
    audit: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file that follows says which MAC the missing one ended with."""
    files = written(audit, tmp_path / "log", 12, max_bytes=500)
    files[0].unlink()
    first = int(files[1].stem.removeprefix("audit-"))
    assert verified(audit, tmp_path / "log") == [f"numbers 1 to {first - 1} are missing at the beginning"]
    monkeypatch.setenv("AUDIT_LOG_KEY", KEY)
    assert part("verification").main(["--verify", str(tmp_path / "log")]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_verify_misses_no_file_that_was_dropped_for_its_age(audit: Script, tmp_path: Path, clock: Clock) -> None:
    written(audit, tmp_path / "log", 6, max_bytes=300)
    clock.advance(86400)
    log = part("log").Log(tmp_path / "log", KEY.encode(), 300, sync=False)
    log.append([{"At": part("log").utc(), "Event": "test"}])
    log.drop_before(part("log").utc())
    log.close()
    [*files] = part("lines").log_files(tmp_path / "log")
    assert not files[0].name.endswith("000001.jsonl")
    assert verified(audit, tmp_path / "log") == []


def test_verify_reports_a_cut_end_only_by_the_newest_line_that_was_known(audit: Script, tmp_path: Path) -> None:
    [path] = written(audit, tmp_path / "log", 5)
    _, number, mac = part("verification").verify([path], KEY.encode())
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    assert verified(audit, tmp_path / "log") == []
    problems, *_ = part("verification").verify([path], KEY.encode(), (number, mac))
    assert problems == ["numbers 4 to 5 are missing at the end"]


def test_verify_reports_a_changed_line_and_another_key(audit: Script, tmp_path: Path) -> None:
    [path] = written(audit, tmp_path / "log", 3)
    assert part("verification").verify([path], b"another key of more than thirty-two characters")[0]
    path.write_bytes(path.read_bytes().replace(b'"s1"', b'"s9"'))
    assert verified(audit, tmp_path / "log") == [
        f"{path.name}, line 2: number 2 has been changed (or the key is another)"
    ]


def test_without_a_key_or_a_log_it_can_not_be_told(
    audit: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUDIT_LOG_KEY", raising=False)
    written(audit, tmp_path / "log", 1)
    assert part("verification").main(["--verify", str(tmp_path / "log")]) == 2
    monkeypatch.setenv("AUDIT_LOG_KEY", KEY)
    assert part("verification").main(["--verify", str(tmp_path / "none")]) == 2
    assert part("verification").main(["--verify", str(tmp_path / "log")]) == 0


def test_what_can_not_be_read_is_status_2_and_no_word_of_a_change(
    audit: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUDIT_LOG_KEY", KEY)
    written(audit, tmp_path / "log", 1)
    words = ["--verify", str(tmp_path / "log")]
    (tmp_path / "binary").write_bytes(b"\xff" * 40)
    for key_file in (tmp_path / "no.key", tmp_path, tmp_path / "binary"):
        assert part("verification").main([*words, "--key-file", str(key_file)]) == 2
        assert "can't be read" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        part("verification").main([*words, "--newest", "twelve"])
    assert ended.value.code == 2
    assert "NUMBER:MAC" in capsys.readouterr().err
    (tmp_path / "log" / "audit-000000000002.jsonl").mkdir()
    assert part("verification").main(words) == 2
    assert "can't be read" in capsys.readouterr().err


def test_a_key_is_made_whole_or_not_at_all(audit: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = part("settings")
    path = tmp_path / "audit_log.key"
    with monkeypatch.context() as full:

        def refuse(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        full.setattr(settings.os, "fsync", refuse)
        with pytest.raises(OSError, match="No space"):
            settings.read_or_make_key(path)
    assert not path.exists()
    key = settings.read_or_make_key(path)
    assert len(key) == 64
    assert settings.read_or_make_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600


# What is written down


def lines(audit: Script, event: str) -> list[dict[str, Any]]:
    return [entry for entry in audit.get("/audit-log")["Items"] if entry["Event"] == event]


def test_who_asked_for_an_image_is_written_down_without_what_is_secret(audit: Script, orthanc_standin: StandIn) -> None:
    allow = orthanc_standin.callback("RegisterIncomingHttpRequestFilter")
    more = {"ip": "10.0.0.7", "headers": {"authorization": "Basic YWxpY2U6aGlkZGVu"}, "get": {}}
    assert allow("/instances/1/preview", method=1, **more) is True
    assert allow("/system", method=1, **more) is True
    assert allow("/instances/1", method=4, **more) is True
    [seen] = eventually(lambda: lines(audit, "retrieve-attempt"))
    assert (seen["User"], seen["IP"], seen["Route"]) == ("alice", "10.0.0.7", "/instances/1/preview")
    [deleted] = lines(audit, "delete-attempt")
    assert deleted["Method"] == "DELETE"
    assert "hidden" not in json.dumps(audit.get("/audit-log"))


def test_what_is_deleted_is_written_down(audit: Script) -> None:
    audit.change("DELETED", "a1", "STUDY")
    [entry] = eventually(lambda: lines(audit, "deleted"))
    assert (entry["Level"], entry["Resource"]) == ("Study", "a1")


def test_what_could_not_be_kept_in_memory_is_counted(
    start: Callable[..., Script], clock: Clock, monkeypatch: pytest.MonkeyPatch, source: Any
) -> None:
    audit = start("audit_log", {"AuditLog": {"Key": KEY}})
    eventually(lambda: lines(audit, "started"))
    inbox = source("common.inbox")
    monkeypatch.setattr(inbox, "MOST_REPORTS", 0)
    audit.change("DELETED", "a1", "STUDY")
    monkeypatch.setattr(inbox, "MOST_REPORTS", 10)
    audit.change("DELETED", "b2", "STUDY")
    [lost] = eventually(lambda: lines(audit, "lost"))
    assert lost["Count"] == 1


@pytest.mark.parametrize("killed", [False, True])
def test_a_file_that_began_when_the_disk_was_full_or_orthanc_was_killed_says_what_it_continues(
    audit: Script, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """Without that, the log looks changed as soon as the files before are dropped for their age."""
    folder, line = tmp_path / "log", {"At": part("log").utc(), "Event": "test"}
    log = part("log").Log(folder, KEY.encode(), 300, sync=False)
    log.append([line] * 3)
    with monkeypatch.context() as full:

        def refuse(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        full.setattr(importlib.import_module("common.append_only").AppendOnly, "append", refuse)
        with pytest.raises(OSError, match="No space"):
            log.append([line])
    if killed:
        log.close()
        log = part("log").Log(folder, KEY.encode(), 300, sync=False)
    log.append([line])
    clock.advance(86400)
    log.drop_before(part("log").utc())
    log.close()
    [path, *_] = part("lines").log_files(folder)
    assert [entry["Event"] for entry in part("lines").entries_of(path)][:2] == ["continued", "test"]
    assert verified(audit, folder) == []


def test_a_file_whose_first_line_a_crash_cut_says_what_it_continues(
    audit: Script, tmp_path: Path, clock: Clock
) -> None:
    folder, line = tmp_path / "log", {"At": part("log").utc(), "Event": "test"}
    written(audit, folder, 3, max_bytes=300)
    log = part("log").Log(folder, KEY.encode(), 300, sync=False)
    log.append([line])
    log.close()
    last = part("lines").log_files(folder)[-1]
    last.write_bytes(last.read_bytes()[:20])  # of its first line
    log = part("log").Log(folder, KEY.encode(), 300, sync=False)
    clock.advance(86400)
    log.append([line])
    log.drop_before(part("log").utc())
    log.close()
    assert part("lines").log_files(folder)[0] == last
    assert verified(audit, folder) == []


def test_a_clock_that_was_behind_when_a_file_began_drops_no_lines_of_before(
    audit: Script, tmp_path: Path, clock: Clock
) -> None:
    log = part("log").Log(tmp_path / "log", KEY.encode(), 300, sync=False)
    for off in (0, 0, 0, -50 * 365 * 86400, 0, 0, 0):
        log.append([{"At": part("log").utc(clock.now + off), "Event": "test"}] * 2)
    files = part("lines").log_files(tmp_path / "log")
    assert len(files) > 3
    log.drop_before(part("log").utc(clock.now - 86400))
    assert part("lines").log_files(tmp_path / "log") == files
    log.close()
