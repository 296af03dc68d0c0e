# SPDX-License-Identifier: AGPL-3.0-or-later
"""Dockerfile and docker-compose.yml: clean by their linters, and what they run works outside a container too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from testing.pytest_plugin import StartOrthanc
from tests.scripts import combine_scripts

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command",
    [["hadolint", "Dockerfile"], ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]],
    ids=lambda command: str(command[0]),
)
def test_the_linter_has_nothing_to_say(command: list[str]) -> None:
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_gets_every_package_that_a_script_may_import() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    files = [
        ROOT / "requirements.txt",
        *(path for path in ROOT.glob("*/requirements.txt") if path.parent.name not in ("docs", "testing", "tests")),
    ]
    wanted = {line.partition("==")[0] for path in files for line in path.read_text().splitlines() if "==" in line}
    assert {"requests", "pillow", "pydicom", "boto3", "pika"} <= wanted
    for path in files:
        assert f"COPY {path.relative_to(ROOT)} " in dockerfile


def test_the_image_is_healthy_while_orthanc_answers_also_with_401(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(None, {"AuthenticationEnabled": True, "RegisteredUsers": {"a": "b"}})
    program: list[Path | str] = [sys.executable, ROOT / "examples" / "compose" / "healthcheck.py"]
    environment = {"ORTHANC_HEALTH_URL": f"http://127.0.0.1:{server.http_port}/system"}
    assert subprocess.run(program, env=environment, check=False).returncode == 0
    server.kill()
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "Connection refused" in done.stderr) == (1, True)


def test_the_journey_of_docker_compose_works_with_its_own_configurations(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    combined = tmp_path / "combined.py"
    scripts = [ROOT / name for name in ("auto_forward_modality.py", "purge_old_studies.py")]
    assert all(f"/etc/orthanc/scripts/{path.name}" in (ROOT / "docker-compose.yml").read_text() for path in scripts)
    combine_scripts(*map(str, scripts), to=combined)
    kept = (
        "Name",
        "DicomAet",
        "RegisteredUsers",
        "AuthenticationEnabled",
        "DicomAlwaysAllowStore",
        "StableAge",
        "AutoForwardModality",
    )
    ours = {
        name: {
            key: value
            for key, value in json.loads((ROOT / f"examples/compose/{name}.json").read_text()).items()
            if key in kept
        }
        for name in ("orthanc", "destination")
    }
    destination = start_orthanc(configuration=ours["destination"], aet="DESTINATION", start=False)
    modalities = {"DESTINATION": ["DESTINATION", "127.0.0.1", destination.dicom_port]}
    orthanc = start_orthanc(combined, {**ours["orthanc"], "DicomModalities": modalities})
    destination.configuration["DicomModalities"] = {"ORTHANC": ["ORTHANC", "127.0.0.1", orthanc.dicom_port]}
    destination.start()
    urls = [server.url.replace("//", "//demo:demo@") for server in (orthanc, destination)]
    command = [sys.executable, str(ROOT / "examples/send_and_watch.py"), *urls]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("Everything arrived.\n")
    for server in (orthanc, destination):
        assert [line for line in server.log.splitlines() if line.startswith("E")] == []
