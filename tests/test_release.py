# SPDX-License-Identifier: AGPL-3.0-or-later
"""A release: one version everywhere, help in a terminal, and files that work when they are downloaded."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc, StoreScp

ROOT = Path(__file__).parent.parent
VERSION = re.findall(r'"(.+)"', (ROOT / "src/common/version.py").read_text())[-1]
PACKAGES = [ROOT / "dicom_events/__init__.py"]
FILES = [*sorted(ROOT.glob("*.py")), *PACKAGES]
PROGRAMS = {"combine.py", "audit_log.py"}


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-S", *words], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "dist"
    done = subprocess.run(
        [sys.executable, ROOT / "src/build_release.py", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"version {VERSION}" in done.stdout
    return folder


def test_all_have_the_version_that_is_written_in_one_place() -> None:
    """`pip install ./testing` can't read a file outside its folder, so that is the only copy."""
    for path in (ROOT / "src").rglob("*.py"):
        if path.name != "version.py":
            assert not re.search(r'^__version__ = "', path.read_text(), re.M), path
    for path in FILES:
        shared = path.parent / "_common/version.py"
        text = (shared if shared.exists() else path).read_text()
        assert f'__version__ = "{VERSION}"' in text, path
    assert tomllib.loads((ROOT / "testing/pyproject.toml").read_text())["project"]["version"] == VERSION
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"] == ["version"]
    assert run(ROOT / "combine.py", "--version").stdout == f"combine.py {VERSION}\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_in_a_terminal_each_file_says_what_it_is_without_any_package(path: Path) -> None:
    """-S: not even what is installed for Python is there; the module orthanc is only in Orthanc."""
    done = run(path, "--help")
    first_line = path.read_text().partition('"""')[2].partition("\n")[0]
    assert (done.returncode, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    assert (first_line if path.name != "combine.py" else "Make one Orthanc script of many.") in said
    if path.name not in PROGRAMS:
        assert run(path).stdout == done.stdout
        assert run(path, "--wrong").returncode == 2
    if path in PACKAGES:
        assert run(path.parent, "--help").stdout == done.stdout
        assert run(path.parent, "--wrong").returncode == 2


def test_the_release_has_the_scripts_all_of_them_combined_and_checksums(dist: Path) -> None:
    archive = f"orthanc-scripts-{VERSION}.zip"
    assert {path.name for path in dist.iterdir()} == {archive, "all.py", "SHA256SUMS"}
    for line in (dist / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest
    with zipfile.ZipFile(dist / archive) as opened:
        inside = {name.partition("/")[2]: opened.read(name) for name in opened.namelist()}
    assert all(name.startswith(f"orthanc-scripts-{VERSION}/") for name in zipfile.ZipFile(dist / archive).namelist())
    for path in FILES:
        assert inside[path.relative_to(ROOT).as_posix()] == path.read_bytes()
    assert {"LICENSE", "README.md", "docs/combine.md", "dicom_events/_common/ledger.py"} <= inside.keys()
    for page in [name for name in inside if name.endswith(".md")]:
        for picture in re.findall(r"!\[[^]]*\]\(([^):]+)\)", inside[page].decode()):
            shown = (ROOT / page).parent / picture
            assert inside[shown.relative_to(ROOT).as_posix()] == shown.read_bytes(), page
    assert not [name for name in inside if "__pycache__" in name or name.startswith(("src/", "tests/"))]


def test_the_same_sources_give_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "src/build_release.py", tmp_path], check=True, capture_output=True)
    assert (tmp_path / "SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()


def test_the_combined_file_says_what_is_in_it_in_a_terminal(dist: Path) -> None:
    done = run(dist / "all.py", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for path in FILES:
        name = path.parent.name if path in PACKAGES else path.name
        assert (f"    {name} {VERSION}\n" in done.stdout) == (name not in ("combine.py", "event_dispatcher.py"))
    assert "Deletes studies by their age" in done.stdout


def test_a_real_orthanc_loads_the_combined_file_of_the_release(dist: Path, start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(dist / "all.py", {"AutoForwardModality": {"Destinations": []}})
    scripts = server.get("/combined-scripts")
    assert {each["State"] for each in scripts} == {"loaded"}
    assert {each["Version"] for each in scripts} == {VERSION}
    assert [line for line in server.log.splitlines() if line.startswith("E")] == []
    assert server.get("/purge-old-studies/status")["Version"] == VERSION


def test_the_combined_file_sends_nothing_where_nobody_said_so(
    dist: Path, start_orthanc: StartOrthanc, storescp: StoreScp
) -> None:
    nodes = {"DicomModalities": {storescp.aet: storescp.as_modality()}, "StableAge": 1}
    server = start_orthanc(dist / "all.py", nodes)
    server.store(make_study())
    server.wait_until_stable()
    forwarder = next(each for each in server.get("/scripts") if each["Name"] == "auto_forward_modality")
    assert (forwarder["State"], forwarder["Healthy"]) == ("idle", True)
    assert forwarder["Reason"] == "Nothing is sent without a section AutoForwardModality in the configuration"
    assert server.request("GET", "/auto-forward-modality/deliveries").status_code == 503
    assert server.get("/scripts/health")["Healthy"]
    assert not list(storescp.folder.glob("CT*"))
    server.stop()
    misspelt = start_orthanc(dist / "all.py", {**nodes, "AutoForwardModalty": {}})
    health = misspelt.request("GET", "/scripts/health")
    assert health.status_code == 503
    assert "AutoForwardModalty is not a known section" in health.json()["Message"]
    sending = start_orthanc(dist / "all.py", {**nodes, "AutoForwardModality": {}})
    sending.store(make_study())
    sending.wait_until(lambda: list(storescp.folder.glob("CT*")), what="send what the section says")


def test_make_help_lists_each_command() -> None:
    listed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([a-z%-]+):(?!=)", (ROOT / "Makefile").read_text(), re.M)
    assert {"release", "help", "test", "bench-%"} <= set(targets)
    for target in targets:
        assert re.search(rf"^make {target} +\S", listed, re.M), target
    columns = {len(re.match(r"make \S+ +", line)[0]) for line in listed.splitlines()}  # type: ignore[index]
    assert len(columns) == 1, listed
