# SPDX-License-Identifier: AGPL-3.0-or-later
"""What docs/install.md says of Windows works in a folder that is laid out like the installer's; Windows itself is not here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from testing.dicom import make_study
from testing.installed import orthanc_executable, python_plugin, site_packages
from testing.processes import start_process
from testing.pytest_plugin import StoreScp
from testing.server import DCMTK_ENVIRONMENT, OrthancServer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/install.md"
SCRIPT = "C:/Orthanc/scripts/auto_forward_modality.py"


class AsInstalled(OrthancServer):
    """An Orthanc that reads the folder `Configuration`, with what Orthanc writes of itself and the installer patches."""

    def make_configuration(self) -> Path:
        folder = self.folder / "Configuration"
        folder.mkdir()
        path = folder / "orthanc.json"
        subprocess.run([orthanc_executable(), f"--config={path}"], check=True, capture_output=True)
        text = path.read_text()
        for key, value in {
            "StorageDirectory": f'"{self.folder}/storage"',  # as the installer does
            "IndexDirectory": f'"{self.folder}/storage"',
            "HttpPort": str(self.http_port),
            "DicomPort": str(self.dicom_port),
            "StableAge": "1",
        }.items():
            text, found = re.subn(rf'^(  "{key}" : )[^,\n]+', rf"\g<1>{value}", text, flags=re.M)
            assert found == 1 or key == "IndexDirectory", key  # 1.13.0 leaves that one out, and uses the other
        path.write_text(re.sub(r'"Plugins" : \[\s*\]', f'"Plugins" : [ "{python_plugin().parent}" ]', text))
        return folder

    def _launch(self) -> None:
        environment = {**DCMTK_ENVIRONMENT}
        if site := site_packages():
            environment |= {"PYTHONPATH": site, "ORTHANC_SITE": site}
        command = [orthanc_executable(), str(self.folder / "Configuration")]
        self.process = start_process(command, log=self.folder / "orthanc.log", environment=environment)


def test_a_folder_as_the_windows_installer_makes_it_forwards_a_study(tmp_path: Path, storescp: StoreScp) -> None:
    page = PAGE.read_text()
    [ours] = re.findall(r"<!-- run as on Windows -->\n```json\n(.*?)```", page, re.S)
    [node] = re.findall(r'`("PACS" : \[ "PACS", "192.168.1.10", 104 \])`', page)
    server = AsInstalled(tmp_path)
    folder = server.make_configuration()
    assert SCRIPT in ours
    (folder / "auto_forward_modality.json").write_text(ours.replace(SCRIPT, str(ROOT / "auto_forward_modality.py")))
    main = folder / "orthanc.json"
    here = node.replace('"PACS", "192.168.1.10", 104', f'"STORESCP", "127.0.0.1", {storescp.port}')
    text, found = re.subn(r'^  "DicomModalities" : \{', rf"\g<0>\n    {here}", main.read_text(), flags=re.M)
    assert found == 1
    main.write_text(text)
    try:
        server.start()
        server.store_scu(make_study(instances=2))
        server.wait_until(lambda: len(storescp.files()) == 2)
    finally:
        server.close()
