# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who comes from elsewhere does what docs/elsewhere.md says, on a real Orthanc."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.combine.helpers import PYDICOM_SAMPLE
from tests.scripts import PACKAGES, SCRIPTS, combine_scripts

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/elsewhere.md").read_text()
PLUGINS = "/usr/share/orthanc/python_plugins"
OLD_FILES = {
    "__init__.py": "from dicom_events import DicomEvents\nfrom series_private_tags import Handler\nimport series_thumbnail\n",
    "dicom_events/__init__.py": "raise ImportError('the old one')\n",
    "series_private_tags.py": "raise ImportError('the old one')\n",
    "series_thumbnail.py": "raise ImportError('the old one')\n",
}


def blocks(language: str, heading: str) -> list[str]:
    """Return the blocks of one section of the page."""
    section = PAGE.partition(f"\n## {heading}")[2].partition("\n## ")[0]
    found = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.S | re.M)
    return [text for kind, text in found if kind == language]


def in_a_shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a block of the page where our scripts lie, with another place for the plugins and the user's files."""
    environment = {**os.environ, "HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    text = command.replace(PLUGINS, str(folder / "python_plugins")).replace("sudo ", "")
    words = ["/bin/sh", "-e", "-c", text]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_plugins_folder_gets_our_scripts_as_the_page_says(tmp_path: Path, start_orthanc: StartOrthanc) -> None:
    for name, text in OLD_FILES.items():
        path = tmp_path / "python_plugins" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    main = tmp_path / "python_plugins/__init__.py"
    first, with_force = blocks("sh", "A folder")
    refused = in_a_shell(first, tmp_path)
    [said] = blocks("", "A folder")
    assert (refused.returncode, refused.stderr) == (2, said.replace(PLUGINS, str(tmp_path / "python_plugins")))
    assert main.read_text() == OLD_FILES["__init__.py"]
    done = in_a_shell(with_force, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "__init__.py.old").read_text() == OLD_FILES["__init__.py"]

    [text] = blocks("json", "A folder")
    configuration: dict[str, Any] = json.loads(text)
    assert configuration.pop("PythonScript") == f"{PLUGINS}/__init__.py"
    configuration["DicomEvents"]["Broker"]["RabbitConfig"]["URL"] = (
        "amqp://user:password@127.0.0.1:9/"  # nobody is there
    )
    server = start_orthanc(main, {**configuration, "StableAge": 1})
    scripts = {each["Name"]: each["State"] for each in server.get("/combined-scripts")}
    assert scripts == {"dicom_events": "loaded", "series_private_tags": "loaded", "series_thumbnail": "loaded"}
    server.store(make_study())
    [series] = server.get("/series")
    server.wait_until(
        lambda: server.get("/dicom-events/status")["Brokers"]["broker"]["Backlog"] >= 1, what="keep the event"
    )
    assert [each["ID"] for each in server.get("/with-private-tags/series")] == [series]
    assert server.request("GET", f"/series/{series}/thumbnail").status_code == 200
    errors = [line for line in server.log.splitlines() if line.startswith("E")]
    assert [line for line in errors if "broker" not in line.lower() and "amqp" not in line.lower()] == []


def test_an_object_of_another_broker_is_named_as_the_page_says(tmp_path: Path, start_orthanc: StartOrthanc) -> None:
    broker = {
        "Type": "rabbitmq",
        "RabbitConfig": {"URL": "amqp://user:password@127.0.0.1:9/", "Exchange": "dicom-events"},
        "SNSConfig": {"TopicArn": "arn:aws:sns:region:account-id:topic-name"},
    }
    server = start_orthanc(ROOT / "dicom_events/__init__.py", {"DicomEvents": {"Broker": broker}})
    errors = [line for line in server.log.splitlines() if line.startswith("E")]
    assert len(errors) == 1
    assert "DicomEvents.Broker: found SNSConfig, allowed: RabbitConfig" in errors[0]


def test_the_rules_of_the_router_and_a_matcher_that_reads_a_file_work(
    tmp_path: Path, start_orthanc: StartOrthanc
) -> None:
    blocks_of_rules = [
        json.loads(each)["AutoForwardModality"] for each in blocks("json", "The scripts") if "Rules" in each
    ]
    mapped, own = blocks_of_rules
    script = tmp_path / "auto_forward_modality.py"
    script.write_bytes((ROOT / script.name).read_bytes())
    (tmp_path / "rules.py").write_text(blocks("python", "The scripts")[0])
    rules_file = tmp_path / "routing-rules.json"
    nodes = {name: [name, "127.0.0.1", 9] for name in ("ARCHIVE", "SECOND", "RESEARCH")}

    server = start_orthanc(
        script, {"AutoForwardModality": {**mapped, "Rules": mapped["Rules"] + own["Rules"]}, "DicomModalities": nodes}
    )
    head, abdomen, both = (
        server.store(
            make_study(patient_id=patient, study_date=day, modality=modality, PatientSex=sex, StudyDescription=text)
        )[0]["ParentStudy"]
        for patient, day, modality, sex, text in (
            ("1", "20000101", "CT", "F", "HEAD"),
            ("2", "20000102", "MR", "F", "THE ABDOMEN"),
            ("3", "20000102", "CT", "F", "ABDOMEN"),
        )
    )

    def destinations(study: str) -> set[str]:
        found = server.post("/auto-forward-modality/rules/test", {"Resource": study})
        return {name for rule in found["Rules"] for name in rule["Destinations"]}

    rules_file.write_text("[]")
    assert destinations(abdomen) == {"RESEARCH"}
    assert destinations(both) == {"ARCHIVE", "SECOND", "RESEARCH"}
    assert destinations(head) == set()
    rules_file.write_text('[{"description": "HEAD", "destinations": ["SECOND"]}]')  # counts at once
    assert destinations(head) == {"SECOND"}


def test_the_samples_of_the_book_are_refused_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text(PYDICOM_SAMPLE)
    words = [sys.executable, str(ROOT / "combine.py"), "sample.py", str(ROOT / "instance_dump.py"), "-o", "out.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    [said] = blocks("", "Samples")
    assert re.sub(r"line \d+", "line N", done.stderr) == re.sub(r"line \d+", "line N", said)
    assert done.returncode == 2


@pytest.mark.parametrize("accept", ["*/*", "application/json"])
def test_the_purge_answers_as_the_page_says(start_orthanc: StartOrthanc, accept: str) -> None:
    server = start_orthanc(ROOT / "purge_old_studies.py")
    for number in range(12):
        server.store(make_study(patient_id=f"P{number}", study_date="19991231"))
    route = re.findall(r"`GET (/purge-old-studies\S+)`", PAGE)[0]
    answer = server.request("GET", route, headers={"Accept": accept}).text
    if accept == "*/*":
        assert f"`{answer.strip()}`" in PAGE
    else:
        assert json.loads(answer) == json.loads(blocks("json", "The scripts")[0])


def test_a_message_about_the_configuration_comes_once_at_the_start(tmp_path: Path, start_orthanc: StartOrthanc) -> None:
    """All scripts at once, each with a mistake of its own."""
    combined = combine_scripts(*SCRIPTS, *PACKAGES, to=tmp_path / "combined.py")
    sections = [
        "AnonymizeSeries", "AuditLog", "AutoForwardModality", "AutoForwardPeer", "AutoRetries", "CMoveInterceptor",
        "DicomEvents", "PurgeOldStudies", "SeriesMainPrivateDicomTags", "SeriesThumbnail",
    ]  # fmt: skip
    server = start_orthanc(
        combined, {name: {"StatePath": ""} if name != "SeriesThumbnail" else {"Size": ""} for name in sections}
    )
    time.sleep(2)  # whoever repeats it would do so when Orthanc has started
    said = [line.partition("] ")[2] for line in server.log.splitlines() if line.startswith("E")]
    assert len(said) == len(sections), said
    assert len(set(said)) == len(said)
    assert all("is empty (is its environment variable set?), allowed: " in line for line in said), said
