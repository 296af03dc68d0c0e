# SPDX-License-Identifier: AGPL-3.0-or-later
"""A key that is gone leaves a script idle; one ERROR line says so and what happens now. Nothing mentions it any more."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.settings import key_of, removed_keys
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.every_script.test_misspelt_keys import (
    SECTIONS,
    Script,
    Steps,
    all_combined,
    as_text,
    events,
    keys,
    script,
    section_with,
)

__all__ = ["all_combined", "events", "script"]  # fixtures
ROOT = Path(__file__).parents[2]
BROKER = "Brokers.A"
# Every key that a script had once: also one whose class is gone has to be named.
REMOVED = {
    "anonymize_series.py": {"Retry.First", "Retry.Longest"},
    "audit_log.py": {"MaxFileSize"},
    "auto_forward_dicomweb.py": {"Retry.First", "Retry.Longest"},
    "auto_forward_modality.py": {"Retry.First", "Retry.Longest", "TcpNoDelay"},
    "auto_forward_peer.py": {"Retry.First", "Retry.Longest"},
    "auto_retries.py": {"Retry.First", "Retry.Longest", "Retry.MaxAttempts", "MaxConcurrent", "KeepDoneDays"},
    "cmove_interceptor.py": {"Retry.First", "Retry.Longest", "TcpNoDelay"},
    "dashboard.py": set[str](),
    "dicom_events/__init__.py": set[str](),
    "purge_old_studies.py": {"KeepDoneDays"},
    "series_private_tags.py": set[str](),
    "series_thumbnail.py": {"Quality", "CacheMegabytes", "Threads"},
}
REMOVED_OF_BROKERS = {"Tries", "RabbitConfig.Heartbeat", "SNSConfig.Region", "WebhookConfig.Connections"}


def removed(cls: Any, before: Steps = ()) -> Iterator[tuple[Steps, str]]:
    """The path to each key that a dataclass had once, at every depth, and what happens now."""
    yield from (((*before, key), now) for key, now in removed_keys(cls).items())
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        for inner in [hint, *typing.get_args(hint)]:
            if dataclasses.is_dataclass(inner):
                step = {tuple: (0,), dict: ("A",)}.get(typing.get_origin(hint), ())
                yield from removed(inner, (*before, key_of(field), *step))


def nested(paths: dict[str, Any]) -> dict[str, Any]:
    """An object that has all these paths."""
    made: dict[str, Any] = {}
    for path, value in paths.items():
        holder, (*before, key) = made, path.split(".")
        for step in before:
            holder = holder.setdefault(step, {})
        holder[key] = value
    return made


def test_each_removed_key_leaves_the_script_idle_and_one_line_says_what_happens_now(script: Script) -> None:
    found = dict(removed(script.settings.Settings))
    file = next(name for name, (section, _) in SECTIONS.items() if section == script.section)
    assert {as_text(path)[1:] for path in found} == REMOVED[file]
    assert not found.keys() & set(keys(script.settings.Settings))
    for path, now in found.items():
        for value in (1, "x"):
            [line] = script.start(script.with_section(section_with(path, value)))
            assert line.startswith(f"{script.section}{as_text(path)} is gone: {now}. ")
            assert "\n" not in line
            script.check_idle(line)


def test_a_removed_key_of_a_broker_puts_only_that_broker_off(events: Script) -> None:
    settings = sys.modules["dicom_events.broker_settings"]
    of_all = [(kind, path, now) for kind in ("log", "file") for path, now in removed(settings.BrokerSettings)]
    of_types = [
        (kind, (name, *path), now) for kind, (name, config) in settings.CONFIGS.items() for path, now in removed(config)
    ]
    assert {as_text(path)[1:] for _, path, _ in (*of_all, *of_types)} == REMOVED_OF_BROKERS
    for kind, path, now in (*of_all, *of_types):
        broker = {"Type": kind, **section_with(path, 1)}
        [line] = events.start({"DicomEvents": {"Broker": {"Type": "log"}, "Brokers": {"A": broker}}})
        assert line.startswith(f"DicomEvents.Brokers.A{as_text(path)} is gone: {now}")
        assert "This broker is off until this is corrected." in line
        assert not events.is_refused()


@pytest.mark.parametrize("script", ["series_thumbnail.py"], indirect=True)
def test_keys_that_are_gone_and_keys_that_are_mistyped_are_named_together(script: Script) -> None:
    [line] = script.start({script.section: {"Threads": 2, "Sise": 64, "Quality": 70}})
    found = re.findall(r"SeriesThumbnail\.(\w+) is (gone|not a known key)", line)
    assert found == [("Threads", "gone"), ("Sise", "not a known key"), ("Quality", "gone")]


def test_combine_names_them_when_it_checks_a_configuration(tmp_path: Path) -> None:
    configuration = {
        "PythonScript": "/etc/orthanc/scripts/combined.py",
        "AutoForwardModality": {"Rules": [], "TcpNoDelay": True, "Retry": {"First": 1, "GiveUpHours": 24}},
        "AutoForwardPeer": {"Destinations": ["A"], "DeleteAfterForward": True},
        "AutoRetries": {"Retry": {"First": 1, "GiveUpHours": 24}},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration))
    scripts = [ROOT / f"{name}.py" for name in ("auto_forward_modality", "auto_forward_peer", "auto_retries")]
    command: list[str | Path] = [sys.executable, ROOT / "combine.py", *scripts, "--config", tmp_path / "orthanc.json"]
    result = subprocess.run([*command, "-o", tmp_path / "out.py"], capture_output=True, text=True, check=False)
    found = re.findall(r"(Auto\S+) is gone: the|(Auto\S+) is gone: DICOM|has no (key)", result.stderr)
    assert found == [
        ("", "AutoForwardModality.TcpNoDelay", ""),
        ("AutoForwardModality.Retry.First", "", ""),
        ("AutoRetries.Retry.First", "", ""),
    ], result.stderr


# What people read


def mentions(text: str, key: str) -> list[str]:
    """The lines in which a key is named as a key: in backquotes, in JSON, or at the end of a path."""
    return [line for line in text.splitlines() if re.search(rf'[`".]{key}[`"]', line)]


@pytest.mark.parametrize("file", REMOVED)
def test_the_page_of_a_script_mentions_no_key_that_is_gone(file: str) -> None:
    name = file.partition("/")[0].removesuffix(".py")
    page, source = (ROOT / "docs" / f"{name}.md").read_text(), (ROOT / file).read_text().split('"""')[1]
    gone = REMOVED[file] | (REMOVED_OF_BROKERS if name == "dicom_events" else set())
    for key in (path.rpartition(".")[2] for path in gone):
        assert mentions(page, key) == []
        assert f'"{key}"' not in source


def test_nothing_else_mentions_a_key_that_no_script_has_any_more() -> None:
    gone = {path.rpartition(".")[2] for paths in (*REMOVED.values(), REMOVED_OF_BROKERS) for path in paths}
    gone -= {"KeepDoneDays"}  # other scripts have it
    texts = [ROOT / "README.md", ROOT / "docker-compose.yml", *(ROOT / "docs").glob("*.md")]
    texts += [path for path in (ROOT / "examples").rglob("*") if path.suffix in (".json", ".md", ".yml", ".py")]
    found = [(path.name, line) for path in texts for key in gone for line in mentions(path.read_text(), key)]
    assert found == []


# On a real Orthanc


def test_with_all_removed_keys_orthanc_runs_and_each_script_says_of_each_key_that_it_is_gone(
    start_orthanc: StartOrthanc, all_combined: Path
) -> None:
    configuration: dict[str, Any] = {"StableAge": 1}
    for file, paths in REMOVED.items():
        section, more = SECTIONS[file]
        own = nested(dict.fromkeys(paths, 1))
        configuration |= {
            **more,
            section: {**({} if isinstance(more.get(section), list) else more.get(section, {})), **own},
        }
    configuration["DicomEvents"] = {
        "Broker": {"Type": "log"},
        "Brokers": {"A": {"Type": "webhook", "WebhookConfig": {"URL": "http://127.0.0.1:1/", "Connections": 2}}},
    }
    server = start_orthanc(all_combined, configuration)
    errors = [line for line in server.log.splitlines() if line.startswith("E")]
    for file, paths in REMOVED.items():
        [line] = [line for line in errors if f"{SECTIONS[file][0]}." in line] if paths else [""]
        for path in paths:
            assert f"{SECTIONS[file][0]}.{path} is gone: " in line
    [line] = [line for line in errors if "DicomEvents" in line]
    assert f"DicomEvents.{BROKER}.WebhookConfig.Connections is gone: " in line
    for file in (file for file, paths in REMOVED.items() if paths):
        route = "/" + file.removesuffix(".py").replace("_", "-") + "/status"
        assert server.request("GET", route).status_code == 503, route
    server.store(make_study())
    assert len(server.get("/instances")) == 1
    server.wait_until(
        lambda: server.request("GET", "/dicom-events/status").status_code == 200, what="publish to others"
    )
