# SPDX-License-Identifier: AGPL-3.0-or-later
"""One status for all scripts, and `/scripts` and `/scripts/health` for all: alone and combined, on a real Orthanc."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.route_table import ROUTES
from tests.scripts import combine_scripts

ROOT = Path(__file__).parents[2]
ENTRY = {"Name", "State", "Reason", "Version", "Healthy", "Routes", "Status"}
SECRET = "0123456789abcdef" * 2
DISPATCHER = """
import event_dispatcher, orthanc

handlers = {orthanc.ChangeType.STABLE_STUDY: lambda event, session: None}
event_dispatcher.register_event_handlers(handlers, orthanc, None, at_least_once="mine")
"""
# What each script needs to run, its name, and a script of a user's own.
SCRIPTS: dict[str, dict[str, Any]] = {
    "anonymize_series.py": {"AnonymizeSeries": {"Secret": SECRET, "Recipes": {"all": {}}}},
    "audit_log.py": {},
    "auto_forward_dicomweb.py": {},  # without the plugin: there is nobody to send to
    "auto_forward_modality.py": {},
    "auto_forward_peer.py": {},
    "auto_retries.py": {},
    "cmove_interceptor.py": {},
    "dashboard.py": {},
    "dicom_events/__init__.py": {},
    "instance_dump.py": {},
    "purge_old_studies.py": {},
    "series_private_tags.py": {"SeriesMainPrivateDicomTags": ["0009,1001:MINE"]},
    "series_thumbnail.py": {},
    DISPATCHER: {},
}
FOREIGN = "import orthanc\n\n__version__ = '7'\northanc.RegisterRestCallback('/greet', lambda *_, **__: None)\n"
FAILS = "raise ValueError('of patient Doe')\n"


def healthy(server: OrthancServer) -> bool:
    return server.request("GET", "/scripts/health").status_code == 200


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.partition(".")[0].partition("/")[0].strip())
def test_alone_each_script_answers_with_the_same_fields_and_for_itself(
    start_briefly: StartOrthanc, script: str
) -> None:
    mine = script == DISPATCHER
    server = start_briefly(script if mine else ROOT / script, SCRIPTS[script], start=False)
    if mine:
        (server.folder / "event_dispatcher.py").write_bytes((ROOT / "event_dispatcher.py").read_bytes())
    server.start()
    server.wait_until(lambda: healthy(server), what="run")
    name = "mine" if mine else script.partition("/")[0].removesuffix(".py")
    [entry] = server.get("/scripts")
    assert entry.keys() == ENTRY
    assert (entry["Name"], entry["State"], entry["Reason"], entry["Healthy"]) == (name, "running", None, True)
    status = server.get(entry["Status"])
    assert [*status][:5] == ["State", "Reason", "Version", "LastError", "Totals"]
    assert (status["State"], status["Reason"], status["LastError"]) == ("running", None, None)
    assert status["Version"] == entry["Version"]
    assert all(isinstance(number, int) for number in status["Totals"].values())
    assert server.get("/scripts/health") == {"Healthy": True, "Scripts": 1, "Unhealthy": []}
    if mine:
        return
    dashed = name.replace("_", "-")
    assert entry["Status"] == f"/{dashed}/status"
    routes = server.get(entry["Routes"])
    named = [f"{each['Method']} {each['Path']}" for each in routes]
    assert {f"GET /{dashed}/status", "GET /scripts", "GET /scripts/health"} <= set(named)
    assert len(named) == len([route for route in ROUTES if f"/{dashed}" in route or "/scripts" in route]) + {
        "instance_dump": 1,
        "series_private_tags": 6,
        "series_thumbnail": 3,
    }.get(name, 0)
    assert all(each["Does"] for each in routes)
    if entry["Routes"] == f"/{dashed}":
        assert server.get(f"/{dashed}/") == routes


def combined(tmp_path: Path, **more: str) -> Path:
    """Three of our scripts and some foreign ones in one file."""
    paths = [ROOT / "audit_log.py", ROOT / "auto_retries.py", ROOT / "purge_old_studies.py"]
    for name, text in more.items():
        (tmp_path / f"{name}.py").write_text(text)
        paths.append(tmp_path / f"{name}.py")
    target = tmp_path / "combined.py"
    return combine_scripts(*paths, to=target)


def test_combined_the_runtime_answers_for_all_the_foreign_and_the_misconfigured_too(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    script = combined(tmp_path, greet=FOREIGN, broken=FAILS)
    configuration = {"CombinedScripts": {"OnLoadError": "skip"}, "AuditLog": {"KepDays": 1}}
    server = start_orthanc(script, configuration)
    wrong = "AuditLog.KepDays is not a known key (did you mean KeepDays?). audit_log is idle until this is corrected."
    failed = "failed to load: ValueError at broken.py, line 1"

    def shown() -> list[tuple[str, str, str | None]]:
        return [(each["Name"], each["State"], each["Reason"]) for each in server.get("/scripts")]

    expected = [
        ("audit_log", "misconfigured", wrong),
        ("auto_retries", "running", None),
        ("purge_old_studies", "running", None),
        ("greet", "running", None),
        ("broken", "idle", failed),
    ]
    server.wait_until(lambda: shown() == expected, what="run")
    entries = server.get("/scripts")
    assert all(each.keys() == ENTRY for each in entries)
    assert [each["Healthy"] for each in entries] == [False, True, True, True, False]
    assert (entries[3]["Version"], entries[3]["Status"]) == ("7", None)
    answer = server.request("GET", "/scripts/health")
    found = answer.json()
    assert answer.status_code == 503
    assert found["Message"] == f"audit_log: {wrong}; broken: {failed}"
    assert found["Unhealthy"] == [entries[0], entries[4]]
    assert (found["HttpStatus"], found["Scripts"]) == (503, 5)
    assert "Doe" not in answer.text
    assert server.request("POST", "/scripts/health", json={}).status_code == 405
    assert server.get(entries[1]["Status"])["State"] == "running"
    assert {each["Path"] for each in server.get("/auto-retries")} >= {"/auto-retries/jobs"}


def test_combined_and_all_well_a_probe_gets_200(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    server = start_orthanc(combined(tmp_path, greet=FOREIGN))
    server.wait_until(lambda: healthy(server), what="run")
    assert server.get("/scripts/health") == {"Healthy": True, "Scripts": 4, "Unhealthy": []}


def test_a_foreign_route_that_is_called_scripts_goes_on_working(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    foreign = """
import orthanc

def answer(output, uri, **request):
    output.AnswerBuffer("theirs", "text/plain")

orthanc.RegisterRestCallback("/scripts", answer)
"""
    server = start_orthanc(combined(tmp_path, theirs=foreign))
    assert server.request("GET", "/scripts").text == "theirs"
    server.assert_logged("theirs has the route /scripts", level="warning")
    server.wait_until(lambda: healthy(server), what="run")
    assert server.get("/scripts/health")["Scripts"] == 4


def test_while_another_process_has_the_state_it_waits_and_a_probe_sees_it_heal(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    configuration = {name: {"StatePath": str(state)} for name in ("AuditLog", "AutoRetries", "PurgeOldStudies")}
    first = start_orthanc(ROOT / "auto_retries.py", configuration)
    first.wait_until(lambda: healthy(first), what="run")
    second = start_orthanc(combined(tmp_path), configuration)
    second.wait_until(
        lambda: [each["State"] for each in second.get("/scripts")] == ["running", "waiting", "running"], what="wait"
    )
    began = time.monotonic()
    answer = second.request("GET", "/scripts/health")
    assert time.monotonic() - began < 1
    assert answer.status_code == 503
    [waiting] = answer.json()["Unhealthy"]
    assert f"another process uses {state / 'auto_retries.sqlite'}" in waiting["Reason"]
    status = second.request("GET", "/auto-retries/status")
    assert (status.status_code, status.json()["State"]) == (503, "waiting")
    assert first.stop() == 0
    second.wait_until(lambda: healthy(second), what="take over", timeout=20)
    status = second.get("/auto-retries/status")
    assert (status["State"], status["Reason"]) == ("running", None)
    assert status["LastError"]["Text"] == waiting["Reason"]


def test_what_is_not_configured_is_idle_and_no_fault(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    paths = [ROOT / name for name in ("anonymize_series.py", "series_private_tags.py", "auto_retries.py")]
    target = combine_scripts(*paths, to=tmp_path / "combined.py")
    server = start_orthanc(target)
    server.wait_until(lambda: healthy(server), what="run")
    found = server.get("/scripts")
    assert [each["State"] for each in found] == ["idle", "idle", "running"]
    assert "there is no section AnonymizeSeries" in found[0]["Reason"]
    assert '"SeriesMainPrivateDicomTags" names no tags' in found[1]["Reason"]


def test_a_deleted_state_shows_in_the_probe(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    state = tmp_path / "state"
    server = start_orthanc(ROOT / "auto_retries.py", {"AutoRetries": {"StatePath": str(state)}})
    server.wait_until(lambda: healthy(server), what="run")
    state.rename(tmp_path / "away")
    server.wait_until(lambda: not healthy(server), what="notice", timeout=15)
    assert "was deleted or replaced" in server.request("GET", "/scripts/health").json()["Message"]
    assert server.request("GET", "/auto-retries/status").json()["State"] == "idle"
    (tmp_path / "away").rename(state)
    server.wait_until(lambda: healthy(server), what="heal", timeout=20)
    assert server.get("/auto-retries/status")["LastError"]["Text"].endswith("restart Orthanc")


def test_a_probe_does_not_wait_for_a_locked_ledger(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    state = tmp_path / "state"
    server = start_orthanc(ROOT / "auto_retries.py", {"AutoRetries": {"StatePath": str(state)}})
    server.wait_until(lambda: healthy(server), what="run")
    holder = sqlite3.connect(state / "auto_retries.sqlite", isolation_level=None)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        for _ in range(10):
            began = time.monotonic()
            assert server.request("GET", "/scripts/health").status_code in (200, 503)
            assert time.monotonic() - began < 1
    finally:
        holder.close()
    server.wait_until(lambda: healthy(server), what="heal", timeout=20)
