# SPDX-License-Identifier: AGPL-3.0-or-later
"""What there is when a reader begins with a page: images in Orthanc, scripts of one's own, further configuration."""

from __future__ import annotations

import dataclasses
import datetime
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pydicom
from pydicom import Dataset

from testing.dicom import make_study, pydicom_files
from testing.server import DCMTK_ENVIRONMENT, OrthancServer, dcmtk_program
from tests.docs.blocks import blocks_of

SECRET = "0123456789abcdef" * 4  # for each ${VARIABLE} of a configuration


def real(*names: str) -> list[Any]:
    """Return files that the package pydicom carries: real images of public origin, as they are."""
    return [path for path in pydicom_files() if path.name in names]


def store_ct_and_mr(server: OrthancServer) -> None:
    """Send one image of each of two studies, as a modality does."""
    server.store_scu(real("CT_small.dcm", "MR_small.dcm"), aet="CT1")


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a page takes for granted.

    Attributes
    ----------
    before : a configuration that Orthanc had before; what it left is there.
    prepare : is called when Orthanc has started with a configuration of the page.
    more : configuration that parts of one need besides the page's first one.
    scripts : files of the reader's own, beside the scripts.
    files : other files that are there, by their path from the root.
    commands : what was run in the clone before.
    errors : texts of ERROR lines that are right here, as of a broker that no machine of ours has.
    variables : of the reader's shell.
    """

    prepare: Callable[[OrthancServer], object] = store_ct_and_mr
    before: dict[str, Any] = dataclasses.field(default_factory=dict)
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    scripts: dict[str, str] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    commands: str = ""
    errors: tuple[str, ...] = ()
    variables: dict[str, str] = dataclasses.field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.variables}


def store_with_private_tags(server: OrthancServer) -> None:
    """Store a real CT image, and one with the private tags of the page's configuration."""
    store_ct_and_mr(server)

    def add_tags(dataset: Dataset) -> None:
        dataset.private_block(0x7053, "Philips PET Private Group", create=True).add_new(0x00, "DS", "0.000551")
        dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"SV10")

    server.store(make_study(patient_id="4711", modality="MR", SeriesDescription="WB", change=add_tags))


def store_two_new_and_four_old(server: OrthancServer) -> None:
    """Store six studies, four of them older than seven years."""
    for year in (1999, 2000, 2010, 2017):
        server.store(make_study(patient_id=f"P{year}", modality="CR", study_date=f"{year}0101"))
    today = datetime.datetime.now().astimezone().strftime("%Y%m%d")
    server.store(make_study(patient_id="P1", study_date=today) + make_study(patient_id="P2", study_date=today))


def fail_to_send(server: OrthancServer) -> None:
    """Send a study to the page's PACS where it is not."""
    server.put("/modalities/PACS", {"AET": "PACS", "Host": "127.0.0.1", "Port": 1})
    store_ct_and_mr(server)
    job = server.post("/modalities/PACS/store", {"Resources": [server.get("/studies")[0]], "Synchronous": False})
    server.wait_until(lambda: server.get(f"/jobs/{job['ID']}")["State"] == "Failure")


def send_in_vain(server: OrthancServer) -> None:
    """Store a study that is sent to the page's PACS where it is not."""
    server.put("/modalities/PACS", {"AET": "PACS", "Host": "127.0.0.1", "Port": 1})
    server.store_scu(real("CT_small.dcm"), aet="CT1")


def store_with_words_in_the_image(server: OrthancServer) -> None:
    """Store real images, and one that says that it may show names."""
    store_ct_and_mr(server)
    server.store(make_study(patient_id="4712", modality="MR", BurnedInAnnotation="YES"))


def store_anew(server: OrthancServer) -> None:
    """Store the images as if they had not been here."""
    for study in server.get("/studies"):
        server.delete(f"/studies/{study}")
    store_ct_and_mr(server)


def move_a_study(server: OrthancServer) -> None:
    """Ask by C-MOVE for a study, as a workstation does."""
    store_ct_and_mr(server)
    uid = pydicom.dcmread(real("CT_small.dcm")[0], stop_before_pixels=True).StudyInstanceUID
    asked = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={uid}", "127.0.0.1", str(server.dicom_port)]
    command = [dcmtk_program("movescu"), "-aet", "WS1", "-aem", "WS1", "-aec", "ORTHANC", "-S", *asked]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **DCMTK_ENVIRONMENT})


def scripts_of(page: str) -> dict[str, str]:
    """Return the Python files that a page shows."""
    return {block.marker.removeprefix("file: "): block.text for block in blocks_of(page) if block.kind == "file"}


EVENTS = "/etc/orthanc/scripts/dicom_events/__init__.py"
NODE = ["NODE", "192.168.1.11", 104]
RULES = "def choose(study):\n    return None\n"
SCENES: dict[str, Scene] = {
    "docs/anonymize_series.md": Scene(prepare=store_with_words_in_the_image),
    "docs/audit_log.md": Scene(variables={"AUDIT_LOG_KEY": SECRET}),
    "docs/auto_forward_modality.md": Scene(
        more={"DicomModalities": {"PACS": NODE, "RESEARCH": NODE, "ECHO": NODE}}, scripts={"rules.py": RULES}
    ),
    "docs/auto_retries.md": Scene(prepare=fail_to_send),
    "docs/backup.md": Scene(
        files={
            f"var/lib/orthanc/db-v6/{name}": ""
            for name in ("auto_forward_modality.sqlite", "auto_forward_modality.sqlite.lock")
        }
    ),
    "docs/cmove_interceptor.md": Scene(prepare=move_a_study),
    "docs/dicom_events.md": Scene(
        prepare=store_anew,
        before={
            "PythonScript": EVENTS,
            "DicomEvents": {
                "Brokers": {"studies": {"Type": "webhook", "WebhookConfig": {"URL": "http://127.0.0.1:1/"}}}
            },
        },
        errors=("is away, what happens",),
    ),
    "docs/purge_old_studies.md": Scene(prepare=store_two_new_and_four_old, more={"DicomModalities": {"PACS": NODE}}),
    "docs/security.md": Scene(variables={"MONITORING_PASSWORD": SECRET}),
    "docs/series_private_tags.md": Scene(prepare=store_with_private_tags),
    "docs/troubleshooting.md": Scene(
        prepare=send_in_vain,
        scripts={
            "pasted.py": "import orthanc\n\n" + 2 * "orthanc.RegisterOnChangeCallback(lambda *given: None)\n",
            "missing_module.py": "import nothing_like_it\n",
        },
    ),
    "docs/upgrade.md": Scene(
        files={
            "etc/orthanc/python.json": '{ "PythonScript": "/etc/orthanc/scripts/auto_forward_modality.py" }\n',
            "etc/orthanc/auto_forward_modality.json": "{}\n",
        },
        commands="python3 combine.py auto_forward_modality.py purge_old_studies.py -o /etc/orthanc/scripts/combined.py",
    ),
    "docs/tutorial.md": Scene(scripts=scripts_of("docs/tutorial.md")),
}
