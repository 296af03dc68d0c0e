# SPDX-License-Identifier: AGPL-3.0-or-later
"""Each example of examples/ that a person starts from, run on a real Orthanc; test_dicom_events_examples.py has the others."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydicom
import pytest
from playwright.sync_api import sync_playwright

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.standin import StandIn
from testing.waiting import wait_until
from tests.brokers import NatsServer
from tests.docs.test_dicom_events_examples import printed, running
from tests.scripts import combine_scripts

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def test_every_script_of_the_examples_is_run_by_a_test() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    scripts = [path.name for path in EXAMPLES.rglob("*.py")]
    assert [name for name in scripts if f'{name}"' not in tests] == []


def test_the_route_lists_the_patients_of_today(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(EXAMPLES / "rest_route.py")
    today = datetime.datetime.now().astimezone().strftime("%Y%m%d")
    for patient, date in (("P1", today), ("P2", today), ("P3", "20200101")):
        server.store(make_study(patient_id=patient, study_date=date))
    assert server.get("/patients-of-today") == ["P1", "P2"]
    answer = server.request("POST", "/patients-of-today")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


def test_each_stored_image_is_dumped_for_its_owner_alone(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    server = start_orthanc(EXAMPLES / "dump_stored.py", {"DumpStored": {"Folder": str(folder)}})
    server.store_scu(make_study(patient_id="P1", instances=3))
    assert sorted(path.stem for path in folder.iterdir()) == sorted(server.get("/instances"))
    for path in folder.iterdir():
        assert json.loads(path.read_text())["PatientID"] == "P1"
        assert path.stat().st_mode & 0o777 == 0o600
    shutil.rmtree(folder)
    folder.write_text("no folder")
    server.store(make_study(patient_id="P2"))  # an image is not refused for that
    server.assert_logged("could not be written", level="error")


def test_what_lies_in_the_folder_is_uploaded_at_start_once(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    for number, content in enumerate(make_study(patient_id="P1", instances=2)):
        (folder / f"{number}.dcm").write_bytes(content)
    (folder / "notes.txt").write_text("no DICOM")
    (folder / "done").mkdir()
    (folder / "done/0.dcm").write_text("of last week")
    script = tmp_path / "upload_at_start.py"
    shutil.copy(EXAMPLES / "upload_at_start.py", script)
    shutil.copy(ROOT / "event_dispatcher.py", tmp_path)  # beside it
    server = start_orthanc(script, {"UploadAtStart": {"Folder": str(folder)}})
    server.wait_for_log("notes.txt: no DICOM, refused")
    assert len(server.get("/instances")) == 2
    found = {str(path.relative_to(folder)) for path in folder.rglob("*.*")}
    assert found == {"done/0.dcm", "done/0.dcm.again", "done/1.dcm", "refused/notes.txt"}
    assert (folder / "done/0.dcm").read_text() == "of last week"


@pytest.mark.parametrize("wrong", [{}, {"UploadAtStart": {"Foldr": "/x"}}, {"UploadAtStart": "/x"}])
def test_a_mistyped_key_uploads_nothing_and_orthanc_runs(
    orthanc_standin: StandIn, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))  # event_dispatcher.py
    orthanc_standin.configuration = wrong
    orthanc_standin.load(EXAMPLES / "upload_at_start.py")
    orthanc_standin.assert_logged('UploadAtStart: allowed is {"Folder": "PATH"} alone', level="error")
    assert not orthanc_standin.registered


def test_the_page_counts_studies_and_explorer_leads_there(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(EXAMPLES / "explorer_page.py")
    for patient, modality in (("P1", "CT"), ("P2", "CT"), ("P3", "MR")):
        server.store(make_study(patient_id=patient, modality=modality))
    strange = pydicom.Dataset()
    strange.Modality = "<B>"
    server.store(make_study(patient_id="P4", change=lambda dataset: dataset.update(strange)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{server.url}/app/explorer.html")
        page.click("#modalities-page")
        page.wait_for_selector("#modalities")
        rows = page.locator("#modalities tr").all_inner_texts()
        browser.close()
    assert [row.split("\t") for row in rows] == [["Modality", "Studies"], ["<B>", "1"], ["CT", "2"], ["MR", "1"]]


def test_the_entry_point_says_hello_and_its_event_arrives_at_nats(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    """What its docker-compose.yml does, with its own configuration and command, outside containers."""
    compose = (EXAMPLES / "entry_point/docker-compose.yml").read_text()
    command = re.search(r"python3 combine\.py /entry_point/entry_point\.py (.+) -o /tmp/combined\.py", compose)
    assert command
    sources = [str(EXAMPLES / "entry_point/entry_point.py"), *(str(ROOT / name) for name in command[1].split())]
    target = combine_scripts(*sources, to=tmp_path / "combined.py")
    configuration = json.loads((EXAMPLES / "entry_point/orthanc.json").read_text())
    nats = NatsServer(tmp_path / "nats").start()
    try:
        section = configuration["DicomEvents"]
        section["Broker"]["NatsConfig"]["URL"] = nats.url
        server = start_orthanc(target, {"Name": configuration["Name"], "DicomEvents": section})
        server.wait_for_log("Hello: ChangeEvent(change_type=ORTHANC_STARTED")
        server.wait_until(lambda: server.get("/dicom-events/status")["Brokers"]["broker"]["State"] == "connected")
        listens_to = re.search(r'"nats://nats:4222", "(\w+)", "(.+)"\]', compose)
        assert listens_to
        with running(tmp_path, "consume_nats.py", nats.url, *listens_to.groups()) as log:
            wait_until(lambda: printed(log) == ["org.example.hello"], what=log.read_text())
        server.assert_not_logged(level="error")
    finally:
        nats.close()


def test_the_compose_file_of_the_entry_point_is_clean() -> None:
    program = Path(sys.executable).parent / "check-jsonschema"
    compose = EXAMPLES / "entry_point/docker-compose.yml"
    command = [str(program), "--builtin-schema", "vendor.compose-spec", str(compose)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
