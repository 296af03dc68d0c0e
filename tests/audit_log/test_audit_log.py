# SPDX-License-Identifier: AGPL-3.0-or-later
"""audit_log.py: whether a log that was tampered with is found out, and what a real Orthanc's log says."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import OrthancServer
from testing.standin import StandIn

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "audit_log.py"
KEY = "a key for tests, of more than 32 characters"


def load() -> ModuleType:
    standin = StandIn("4.0")
    with standin.installed():
        return standin.load(SCRIPT)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load()


# The log


def write(script: ModuleType, folder: Path, lines: int, *, max_bytes: int = 800, opened: int = 1) -> tuple[int, str]:
    """A log of lines and several files; its newest line."""
    for _ in range(opened):
        log = script.Log(folder, KEY.encode(), max_bytes, sync=False)
        for number in range(lines):
            log.append(
                [{"At": f"2024-01-{number % 28 + 1:02}T00:00:00.000Z", "Event": "received", "Patient": f"Ä{number}"}]
            )
        log.close()
    return int(log.number), str(log.mac)


def problems(script: ModuleType, folder: Path, newest: tuple[int, str] | None = None) -> list[str]:
    return list(script.verify(script.log_files(folder), KEY.encode(), newest)[0])


def test_a_log_of_several_files_and_starts_is_whole(script: ModuleType, tmp_path: Path) -> None:
    newest = write(script, tmp_path, 20, opened=3)
    assert len(script.log_files(tmp_path)) > 5
    assert problems(script, tmp_path, newest) == []
    assert script.verify(script.log_files(tmp_path), KEY.encode())[1:] == newest
    assert script.verify(script.log_files(tmp_path), b"another key, of more than 32 characters")[0]


CHANGES = ["byte", "remove", "swap", "copy", "value", "cut", "file", "insert"]


@settings(max_examples=300)
@given(kind=st.sampled_from(CHANGES), at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_whatever_is_changed_or_missing_is_found(kind: str, at: int, bit: int) -> None:
    module = SHARED
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        newest = write(module, folder, 12)
        files = module.log_files(folder)
        path = files[at % len(files)]
        lines = path.read_bytes().splitlines(keepends=True)
        number = at % len(lines)
        if kind == "byte":
            data = bytearray(path.read_bytes())
            data[at % len(data)] ^= 1 << bit
            lines = [bytes(data)]
        elif kind == "remove":
            del lines[number]
        elif kind == "swap":
            lines = (
                [*lines[:number], *reversed(lines[number:])] if number < len(lines) - 1 else [lines[-1], *lines[:-1]]
            )
        elif kind == "copy":
            lines.insert(number, lines[0])
        elif kind == "value":
            lines[number] = lines[number].replace(b'"Event": "', b'"Event": "not-')
        elif kind == "cut":
            files[-1].write_bytes(files[-1].read_bytes()[: -2 - at % (files[-1].stat().st_size - 2)])
            lines = files[-1].read_bytes().splitlines(keepends=True)
            path = files[-1]
        elif kind == "file":
            path.unlink()
            lines = []
        else:
            lines.insert(number, b'{"Number": 1, "At": "", "Event": "x", "Mac": "%s"}\n' % (b"0" * 64))
        if lines or kind == "remove":
            path.write_bytes(b"".join(lines))
        assert problems(module, folder, newest), (kind, path.name)


SHARED = load()


def test_a_line_that_a_crash_cut_is_told_of_and_the_log_goes_on(script: ModuleType, tmp_path: Path) -> None:
    write(script, tmp_path, 3, max_bytes=10**6)
    [path] = script.log_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    assert problems(script, tmp_path)
    newest = write(script, tmp_path, 2, max_bytes=10**6)
    assert problems(script, tmp_path, newest) == []
    assert [entry["Event"] for entry in script.entries_of(path)].count("recovered") == 1
    # Nobody else passes a broken line off as one of a crash.
    path.write_bytes(path.read_bytes().replace(b'"Patient": "\\u00c40"', b'"Patient": "X"', 1))
    assert problems(script, tmp_path, newest)


def test_files_that_were_dropped_for_their_age_are_not_missing(script: ModuleType, tmp_path: Path) -> None:
    write(script, tmp_path, 20)
    log = script.Log(tmp_path, KEY.encode(), 800, sync=True)
    count = len(script.log_files(tmp_path))
    log.drop_before("2024-01-10T00:00:00.000Z")
    assert len(script.log_files(tmp_path)) == count
    log.drop_before("2999-01-10T00:00:00.000Z")
    log.close()
    assert len(script.log_files(tmp_path)) < count
    newest = write(script, tmp_path, 20)
    assert problems(script, tmp_path, newest) == []
    script.log_files(tmp_path)[0].unlink()
    assert "missing at the beginning" in problems(script, tmp_path, newest)[0]


def test_two_processes_do_not_write_one_log(script: ModuleType, tmp_path: Path) -> None:
    first = script.Log(tmp_path, KEY.encode(), 800, sync=False)
    with pytest.raises(OSError, match="another process"):
        script.Log(tmp_path, KEY.encode(), 800, sync=False)
    first.close()
    script.Log(tmp_path, KEY.encode(), 800, sync=False).close()


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from testing.standin import StandIn
standin = StandIn("4.0")
with standin.installed():
    module = standin.load({str(SCRIPT)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = module.Log(Path({str(tmp_path)!r}), {KEY!r}.encode(), 10**6, sync=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
failed = 0
for number in range(100):
    try:
        log.append([{{"At": "", "Event": "e", "N": number}}])
    except OSError:
        failed += 1
        if failed == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.close()
assert failed == 5, failed
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert problems(SHARED, tmp_path) == []
    [path] = SHARED.log_files(tmp_path)
    assert len(path.read_bytes().splitlines()) == 95


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Basic YWxpY2U6c2VjcmV0", "alice"),
        ("basic YWxpY2U=", "alice"),
        ("Bearer abcdef", "(Bearer)"),
        ("", ""),
        ("Basic ***", ""),
        ("secret-without-a-kind", ""),
        ("Basic YQpiOnM=", "a b"),
    ],
)
def test_of_who_asks_the_name_is_kept_and_no_secret(script: ModuleType, header: str, name: str) -> None:
    assert script.user_of(header) == name


# On a real Orthanc


def lines(server: OrthancServer, **asked: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.get("/audit-log", limit=1000, **asked)["Items"]
    return found


def wait_for_line(server: OrthancServer, **wanted: Any) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        return next((each for each in lines(server) if wanted.items() <= each.items()), None)

    return dict(server.wait_until(there, what=f"a line with {wanted}"))


def verified(server: OrthancServer, folder: Path, *words: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    """What `--verify` says, of a Python that has no module orthanc."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--verify", str(folder), *words],
        env={**os.environ, "AUDIT_LOG_KEY": key},
        capture_output=True,
        text=True,
        check=False,
    )


USERS = {"alice": "wonderland", "bob": "builder"}


@pytest.fixture(scope="module")
def audited(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    return start_orthanc_for_module(
        SCRIPT,
        {
            "AuditLog": {"Key": KEY, "WatchRequests": True, "Path": "log"},
            "AuthenticationEnabled": True,
            "RegisteredUsers": USERS,
            "DicomModalities": {"NOBODY": ["NOBODY", "127.0.0.1", 1]},
            "StableAge": 3600,
        },
    )


def test_what_is_received_is_told_with_its_sender(audited: OrthancServer) -> None:
    audited.store_scu(make_study(patient_id="SENT", instances=3), aet="SCANNER")
    line = wait_for_line(audited, Event="received", Patient="SENT")
    assert line["From"]["RemoteAET"] == "SCANNER"
    assert line["From"]["RemoteIP"] == "127.0.0.1"
    assert line["Study"] == audited.get("/studies")[0]
    stored = audited.store(make_study(patient_id="UPLOADED"))[0]
    line = wait_for_line(audited, Event="received", Patient="UPLOADED")
    assert (line["From"]["HttpUsername"], line["Study"]) == ("alice", stored["ParentStudy"])
    # Three images of one sender are one line, and, when it has been quiet, how many they were.
    total = audited.wait_until(lambda: [each for each in lines(audited, patient="SENT") if each.get("Count") == 3])
    assert len(lines(audited, patient="SENT", event="received")) == 2
    assert total[0]["Since"] == wait_for_line(audited, Patient="SENT")["At"]


def test_what_is_sent_is_told_with_its_result(audited: OrthancServer, storescp: StoreScp) -> None:
    study = audited.store(make_study(patient_id="LEAVES", series=2))[0]["ParentStudy"]
    audited.put("/modalities/ARCHIVE", storescp.as_modality())
    audited.post("/modalities/ARCHIVE/store", study)
    line = wait_for_line(audited, Event="sent", Patient="LEAVES", Result="success")
    assert (line["To"], line["Study"]) == (storescp.aet, study)
    series = audited.get(f"/studies/{study}")["Series"]
    audited.post("/modalities/NOBODY/store", {"Resources": series, "Asynchronous": True})
    line = wait_for_line(audited, Event="sent", Patient="LEAVES", Result="failure")
    assert line["To"] == "NOBODY"
    assert line["Error"]
    assert len(lines(audited, patient="LEAVES", event="sent")) == 2
    attempt = wait_for_line(audited, Event="post-attempt", Route="/modalities/NOBODY/store")
    assert (attempt["User"], attempt["IP"]) == ("alice", "127.0.0.1")


def test_of_a_peer_its_url_is_told_and_nothing_that_is_secret(audited: OrthancServer) -> None:
    """Orthanc's job of sending shows the headers of a peer."""
    secret = {"Url": "http://127.0.0.1:1/", "HttpHeaders": {"Authorization": "Bearer hush-hush"}}
    audited.put("/peers/CLOUD", secret)
    study = audited.store(make_study(patient_id="CLOUDED"))[0]["ParentStudy"]
    audited.post("/peers/CLOUD/store", {"Resources": [study], "Asynchronous": True})
    line = wait_for_line(audited, Event="sent", Patient="CLOUDED", Result="failure")
    assert line["To"] == "http://127.0.0.1:1/"
    assert "hush-hush" not in str(lines(audited))


def test_what_is_retrieved_and_deleted_over_rest_is_told_with_user_address_and_route(audited: OrthancServer) -> None:
    stored = audited.store(make_study(patient_id="VIEWED", instances=3))
    study = stored[0]["ParentStudy"]
    for each in stored:
        path = f"/instances/{each['ID']}/preview"
        bob = {"auth": ("bob", "builder"), "headers": {"X-Forwarded-For": "10.1.2.3, 10.1.2.4"}}
        assert audited.request("GET", path, **bob).ok
    line = wait_for_line(audited, Event="retrieve-attempt", Patient="VIEWED", User="bob")
    assert (line["Route"], line["Study"]) == (f"/instances/{stored[0]['ID']}/preview", study)
    assert line["ForwardedFor"] == "10.1.2.3, 10.1.2.4"
    audited.get(f"/studies/{study}/archive")
    wait_for_line(audited, Event="retrieve-attempt", Route=f"/studies/{study}/archive", User="alice", Patient="VIEWED")
    pixels = f"/instances/{stored[0]['ID']}/content/PixelData/0"
    assert len(audited.request("GET", pixels).content) > 1000
    wait_for_line(audited, Event="retrieve-attempt", Route=pixels, User="alice", Patient="VIEWED")
    audited.get(f"/studies/{study}")  # shows no image
    audited.delete(f"/studies/{study}")
    wait_for_line(audited, Event="delete-attempt", Route=f"/studies/{study}", User="alice", Patient="VIEWED")
    wait_for_line(audited, Event="deleted", Level="Study", Resource=study, Patient="VIEWED")
    assert wait_for_line(audited, Event="deleted", Level="Patient", Patient="VIEWED")
    assert not [each for each in lines(audited) if each.get("Route") == f"/studies/{study}" and each["Method"] == "GET"]
    assert "wonderland" not in json.dumps(lines(audited))
    assert (
        wait_for_line(audited, Event="retrieve-attempt", Patient="VIEWED", User="bob", Count=3)["Since"] == line["At"]
    )


def test_what_is_modified_and_anonymized_is_told_with_what_became_of_it(audited: OrthancServer) -> None:
    study = audited.store(make_study(patient_id="ORIGINAL"))[0]["ParentStudy"]
    made = {}
    for event, body in (("anonymize", {}), ("modify", {"Replace": {"StudyDescription": "other"}})):
        made[event] = audited.post(f"/studies/{study}/{event}", body)["ID"]
    line = wait_for_line(audited, Event="anonymized", Patient="ORIGINAL")
    assert (line["Made"], line["Study"]) == (made["anonymize"], study)
    assert wait_for_line(audited, Event="modified", Patient="ORIGINAL")["Made"] == made["modify"]
    assert wait_for_line(audited, Event="received", Study=made["anonymize"])["Made"] == "anonymized"
    assert wait_for_line(audited, Event="received", Study=made["modify"])["Made"] == "modified"


def test_lines_are_found_by_patient_study_event_and_time(audited: OrthancServer) -> None:
    stored = audited.store(make_study(patient_id="Müller\\"[:6], seed="found"))[0]
    line = wait_for_line(audited, Event="received", Patient="Müller")
    assert lines(audited, patient="Müller", since="20200101") == lines(audited, study=line["StudyInstanceUID"])
    assert lines(audited, study=stored["ParentStudy"])[0] == line
    assert lines(audited, patient="Müller", since="2100-01-01T00:00:00+02:00") == []
    assert lines(audited, patient="Müller", until=line["At"]) == []
    first = audited.get("/audit-log", limit=2)
    assert [each["Number"] for each in first["Items"]] == [1, 2]
    assert first["Total"] > 2
    assert audited.get("/audit-log", limit=2, after=first["Next"])["Items"][0]["Number"] == 3


@pytest.mark.parametrize(
    ("query", "named"),
    [("since=yesterday", "since"), ("limit=0", "limit"), ("after=-1", "after"), ("pateint=X", "pateint")],
)
def test_a_wrong_parameter_is_a_400_that_names_it(audited: OrthancServer, query: str, named: str) -> None:
    answer = audited.request("GET", f"/audit-log?{query}")
    assert answer.status_code == 400
    assert named in answer.json()["Message"]


def test_killed_and_started_again_the_log_is_whole_and_its_newest_line_shows_a_cut(
    start_orthanc: StartOrthanc,
) -> None:
    server = start_orthanc(SCRIPT, {"AuditLog": {"Key": KEY, "Path": "log", "WatchRequests": True}})
    stored = server.store(make_study(patient_id="BEFORE"))[0]
    wait_for_line(server, Event="received", Patient="BEFORE")
    server.kill()
    server.start()
    server.wait_until(lambda: server.request("GET", "/audit-log/status").ok)
    server.delete(f"/studies/{stored['ParentStudy']}")
    wait_for_line(server, Event="deleted", Level="Study", Patient="BEFORE")  # known over the restart
    newest = server.get("/audit-log/newest")
    server.stop()
    folder = server.folder / "log"
    exported = f"{newest['Number']}:{newest['Mac']}"
    done = verified(server, folder, "--newest", exported)
    assert (done.returncode, done.stdout[:3]) == (0, "ok:"), done.stdout + done.stderr
    assert verified(server, folder, key="k" * 40).returncode == 1
    assert verified(server, folder, key="short").returncode == 2
    [path] = SHARED.log_files(folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[: newest["Number"] - 1]))
    done = verified(server, folder, "--newest", exported)
    assert done.returncode == 1
    assert "missing at the end" in done.stdout
    path.write_bytes(b"".join([*whole[:1], *whole[2:]]))
    assert "number 2 is missing" in verified(server, folder).stdout


def test_without_a_section_it_writes_with_a_key_of_its_own_and_knows_what_was_there(
    start_orthanc: StartOrthanc,
) -> None:
    server = start_orthanc()
    stored = server.store(make_study(patient_id="OLD", series=2))
    server.stop()
    server = start_orthanc(SCRIPT, {"StorageDirectory": server.configuration["StorageDirectory"],
                                    "IndexDirectory": server.configuration["IndexDirectory"]})  # fmt: skip
    status = server.wait_until(lambda: server.request("GET", "/audit-log/status").json())
    newer = tuple(map(int, server.get("/plugins/python")["Version"].split("."))) >= (5, 0)
    assert status["WatchesRequests"] is newer
    server.wait_until(lambda: server.get("/audit-log/status")["Waiting"] == 0)
    folder = Path(server.configuration["IndexDirectory"])
    assert stat.S_IMODE((folder / "audit_log.key").stat().st_mode) == 0o600
    assert "AuditLog.Key is not set" in server.log
    server.delete(f"/series/{stored[0]['ParentSeries']}")
    line = wait_for_line(server, Event="deleted", Level="Series")
    assert (line["Patient"], line["Study"]) == ("OLD", stored[0]["ParentStudy"])
    server.stop()
    done = verified(server, folder / "audit-log", "--key-file", str(folder / "audit_log.key"), key="")
    assert done.returncode == 0, done.stdout


SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40)
JSON = SCALAR | st.lists(SCALAR, max_size=2) | st.dictionaries(st.text(max_size=4), SCALAR, max_size=2)
KEYS = ["Key", "Path", "WatchRequests", "MaxFileSize", "KeepDays", "Durability", "StatePath", "Kye"]


@given(section=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4) | JSON)
@settings(max_examples=60)
def test_a_wrong_configuration_is_one_error_that_names_the_key_and_the_script_stays_idle(section: Any) -> None:
    standin = StandIn("7.1", {"AuditLog": section})
    with standin.installed():
        standin.load(SCRIPT)
    errors = [text for level, text in standin.logs if level == "error"]
    assert len(errors) <= 1
    assert bool(errors) != ("RegisterOnStoredInstanceCallback" in standin.registered)
    for error in errors:
        assert error.startswith("AuditLog")
        says = ("allowed: ", " is not a known key (did you mean ", "AuditLog.MaxFileSize is gone: ")
        assert any(part in error for part in says)
        if isinstance(section, dict) and "AuditLog.Key:" in error:
            assert json.dumps(section["Key"]) not in error or len(json.dumps(section["Key"])) < 4
