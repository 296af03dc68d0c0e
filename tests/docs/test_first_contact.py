# SPDX-License-Identifier: AGPL-3.0-or-later
"""What README and docs/install.md tell a newcomer to do works as it is written, on what a package or an image has."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from testing.dicom import make_study
from testing.installed import orthanc_executable, python_plugin, site_packages
from testing.processes import start_process
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import DCMTK_ENVIRONMENT, OrthancFailedError, OrthancServer

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "auto_forward_modality.py"
# What orthancteam/orthanc adds to what a user gives (Orthanc Book, "Default configuration").
ORTHANCTEAM_DEFAULTS = {"RemoteAccessAllowed": True, "AuthenticationEnabled": True}
IMAGE = "jodogne/orthanc-python:1.13.0"
PASSWORD = "correct-horse"  # noqa: S105


def block(page: str, place: str, language: str) -> str:
    """Return the block of a page that is marked `<!-- run PLACE -->`."""
    text = (ROOT / page).read_text()
    found = re.findall(rf"<!-- run {re.escape(place)} -->\n```{language}\n(.*?)```", text, re.S)
    assert len(found) == 1, f"{page} has {len(found)} blocks for {place}"
    return str(found[0])


def commands_of_the_script(page: str, command: str) -> str:
    """Return the one block of shell commands of a page that has a command."""
    blocks: list[str] = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.S)
    [found] = [each for each in blocks if command in each]
    return found


# Debian


class DebianOrthanc(OrthancServer):
    """Debian's own configuration in a folder, started as Debian's unit does: with a folder for logs, and /etc/orthanc."""

    etc: Path

    @classmethod
    def untouched(cls, folder: Path) -> DebianOrthanc:
        """Copy what the package has installed. Only its ports and places are others, and it waits less for more images."""
        server = cls(folder)
        server.etc, logs = folder / "etc/orthanc", folder / "var/log/orthanc"
        logs.mkdir(parents=True)
        server.etc.mkdir(parents=True)
        tree = Path(orthanc_executable()).parent  # of another suite, unpacked
        package = tree / "etc/orthanc" if (tree / "etc/orthanc").exists() else Path("/etc/orthanc")
        for file in package.iterdir():
            if os.access(file, os.R_OK):  # credentials.json is root's and Orthanc's
                shutil.copy(file, server.etc)
        python = server.etc / "python.json"
        python.write_text(python.read_text().replace("/etc/orthanc/", f"{server.etc}/"))
        path = server.etc / "orthanc.json"
        text = path.read_text().replace("/var/lib/orthanc/db-v6", str(folder / "storage"))
        for key, value in {"HttpPort": server.http_port, "DicomPort": server.dicom_port, "StableAge": 1}.items():
            text = re.sub(rf'^(  "{key}" : )\d+', rf"\g<1>{value}", text, flags=re.M)
        path.write_text(text.replace("/usr/share/orthanc/plugins/", f"{python_plugin().parent}/"))
        return server

    @property
    def log(self) -> str:
        files = [self.folder / "orthanc.log", *sorted((self.folder / "var/log/orthanc").glob("*.log"))[:1]]
        return "".join(path.read_text(errors="replace") for path in files if path.exists())

    def start(self) -> DebianOrthanc:
        super().start()
        named = self.folder / "var/log/orthanc/Orthanc.log"
        if not named.exists():  # an unpacked tree's program is its loader, and Orthanc names the log by its program
            named.symlink_to(next(named.parent.glob("*.log")))
        return self

    def _launch(self) -> None:
        command = [orthanc_executable(), f"--logdir={self.folder}/var/log/orthanc", str(self.etc)]
        environment = {**DCMTK_ENVIRONMENT, **self.environment}
        if site := site_packages():
            environment |= {"PYTHONPATH": f"{site}:{self.environment.get('PYTHONPATH', '')}", "ORTHANC_SITE": site}
        self.process = start_process(command, log=self.folder / "orthanc.log", environment=environment)

    def run(self, commands: str) -> str:
        """Run a page's commands on this folder in place of the root's; return what they print.

        What only a whole system can do is left out: to be root, and to start a service.
        """
        for place in ("/etc/", "/var/log/"):
            commands = commands.replace(place, f"{self.folder}{place}")
        commands = re.sub(r"^sudo systemctl .*\n", "", commands, flags=re.M).replace("sudo ", "")
        commands = commands.replace("http://127.0.0.1:8042", self.url)
        done = subprocess.run(["bash", "-ec", commands], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[DebianOrthanc]:
    server = DebianOrthanc.untouched(tmp_path / "debian")
    yield server
    server.close()


def test_on_an_untouched_debian_the_readmes_commands_forward_a_study(debian: DebianOrthanc, storescp: StoreScp) -> None:
    commands = block("README.md", "on Debian", "sh")
    assert commands.endswith("sudo systemctl restart orthanc\n")
    assert '"PACS", "192.168.1.10", 104' in commands
    debian.run(commands.replace('"PACS", "192.168.1.10", 104', f'"STORESCP", "127.0.0.1", {storescp.port}'))
    debian.start()
    said = debian.run(block("README.md", "on Debian, afterwards", "sh"))
    assert '"State": "running"' in said
    assert "Orthanc has started" in said
    debian.store_scu(make_study(instances=3))
    debian.wait_until(lambda: len(storescp.files()) == 3)


@pytest.mark.parametrize("before", ["nothing", "one script"])
def test_on_debian_the_readmes_commands_for_several_scripts_run_them(debian: DebianOrthanc, before: str) -> None:
    if before == "one script":
        debian.run(block("README.md", "on Debian", "sh"))
    debian.run(block("README.md", "on Debian, several scripts", "sh"))
    debian.start()
    loaded = {each["Name"]: each["State"] for each in debian.get("/combined-scripts")}
    assert loaded == {"auto_forward_modality": "loaded", "purge_old_studies": "loaded"}


def test_on_debian_a_second_file_that_names_a_script_stops_orthanc_as_the_readme_says(debian: DebianOrthanc) -> None:
    (debian.etc / "mine.json").write_text(json.dumps({"PythonScript": str(SCRIPT)}))
    with pytest.raises(OrthancFailedError, match="255"):
        debian.start()


def test_a_virtual_environment_made_by_the_pages_commands_is_where_orthanc_finds_packages(
    debian: DebianOrthanc,
) -> None:
    packages = debian.folder / "opt/orthanc-packages"
    library = packages / "lib/python3.99/site-packages"
    commands = block("docs/install.md", "on Debian", "sh").replace("/opt/orthanc-packages", str(packages))
    # apt and pip are not ours to test: the folder is as they leave it.
    library.mkdir(parents=True)
    (library / "only_there.py").write_text("GREETING = 'found in the virtual environment'\n")
    skipped = ("sudo apt ", "sudo /usr/bin/python3 -m venv ", f"sudo {packages}/bin/pip ")
    kept = [line for line in commands.splitlines(keepends=True) if not line.startswith(skipped)]
    assert len(kept) == len(commands.splitlines()) - len(skipped)
    debian.run("".join(kept))
    unit = (debian.folder / "etc/systemd/system/orthanc.service.d/packages.conf").read_text()
    name, _, value = unit.splitlines()[1].removeprefix("Environment=").partition("=")
    debian.environment[name] = value
    script = "import orthanc, only_there\northanc.LogWarning(only_there.GREETING)\n"
    (debian.etc / "sample.py").write_text(script)
    debian.start()
    debian.assert_logged("found in the virtual environment")


# Images


def served(configuration: dict[str, Any], start_orthanc: StartOrthanc, storescp: StoreScp) -> OrthancServer:
    """Start an Orthanc with a configuration of an image; only what lies elsewhere here, ports and folders, is ours."""
    places = {"StorageDirectory", "PythonScript", "DicomModalities"}
    kept = {key: value for key, value in configuration.items() if key not in places}
    server = start_orthanc(SCRIPT, {"Plugins": [str(python_plugin())], **kept, "StableAge": 1}, start=False)
    server.configuration["DicomModalities"] = {
        name: storescp.as_modality() for name in configuration["DicomModalities"]
    }
    server.environment["ORTHANC_PASSWORD"] = PASSWORD
    return server.start()


def test_in_the_first_image_the_readmes_configuration_has_what_the_images_own_had(
    start_orthanc: StartOrthanc, storescp: StoreScp
) -> None:
    configuration = json.loads(block("README.md", "in jodogne/orthanc-python", "json"))
    assert configuration["Plugins"] == ["/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins"]
    command = commands_of_the_script("README.md", "docker run -d --name orthanc")
    assert "--rm" not in command
    assert f":{configuration['StorageDirectory']} " in command
    assert f"{SCRIPT.name}:{configuration['PythonScript']}:ro" in command
    # The folder that exists here is this Orthanc's; the other does not exist, as one of the two in the image.
    folders = [str(python_plugin().parent), "/usr/local/share/orthanc/plugins"]
    server = served({**configuration, "Plugins": folders}, start_orthanc, storescp)
    assert server.request("GET", "/system", auth=None).status_code == 401
    for user, status in {("admin", ""): 401, ("admin", PASSWORD): 200}.items():
        assert server.request("GET", "/auto-forward-modality/status", auth=user).status_code == status
    server.store_scu(make_study(instances=2))
    server.wait_until(lambda: len(storescp.files()) == 2)


def test_the_readmes_docker_commands_are_whole_and_refuse_an_empty_password(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\n[ "$1" = logs ] || printf "%s\\n" "$@"\n')
    docker.chmod(0o755)
    commands = re.sub(r"^curl .*\n", "", commands_of_the_script("README.md", "docker run -d"), flags=re.M)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    refused = subprocess.run(["sh", "-c", commands], env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "choose a password" in refused.stderr
    environment["ORTHANC_PASSWORD"] = PASSWORD
    given = subprocess.run(["sh", "-ec", commands], env=environment, capture_output=True, text=True, check=True).stdout
    assert given.endswith(f"{IMAGE}\n/etc/orthanc/orthanc.json\n")  # one file: the image's folder has a second one
    assert f"ORTHANC_PASSWORD={PASSWORD}\n" in given


def test_the_command_that_combines_in_the_image_combines(tmp_path: Path) -> None:
    command = commands_of_the_script("README.md", "--entrypoint python3.13")
    arguments = command.replace("\\\n", " ").split()
    for name in arguments[(at := arguments.index(IMAGE) + 1) :]:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tmp_path)
    subprocess.run([sys.executable, *arguments[at:]], cwd=tmp_path, check=True)
    assert (tmp_path / "combined.py").exists()


def test_in_the_second_image_the_pages_compose_file_forwards_a_study(
    start_orthanc: StartOrthanc, storescp: StoreScp, tmp_path: Path
) -> None:
    text = block("docs/install.md", "in orthancteam/orthanc", "yaml")
    (tmp_path / "docker-compose.yml").write_text(text)
    linter = Path(sys.executable).parent / "check-jsonschema"
    command = [str(linter), "--builtin-schema", "vendor.compose-spec", str(tmp_path / "docker-compose.yml")]
    subprocess.run(command, check=True, capture_output=True)
    service = YAML(typ="safe").load(text.replace("${ORTHANC_PASSWORD:?choose a password}", PASSWORD))["services"][
        "orthanc"
    ]
    configuration = {**ORTHANCTEAM_DEFAULTS, **configuration_of(service["environment"])}
    assert f"./{SCRIPT.name}:{configuration['PythonScript']}:ro" in service["volumes"]
    assert service["environment"]["PYTHON_PLUGIN_ENABLED"] == "true"
    assert "orthanc-data:/var/lib/orthanc/db" in service["volumes"]
    server = served(configuration, start_orthanc, storescp)
    assert server.request("GET", "/auto-forward-modality/status", auth=("admin", PASSWORD)).json()["State"] == "running"
    server.store_scu(make_study(instances=2))
    server.wait_until(lambda: len(storescp.files()) == 2)


def configuration_of(environment: dict[str, str]) -> dict[str, Any]:
    """Return what orthancteam/orthanc makes of variables, by the rule of the Orthanc Book ("Environment variables")."""
    configuration: dict[str, Any] = json.loads(environment["ORTHANC_JSON"])
    for name, value in environment.items():
        if name.startswith("ORTHANC__"):
            key = "".join(word.capitalize() for word in name.removeprefix("ORTHANC__").split("_"))
            configuration[key] = json.loads(value) if value.startswith(("{", "[")) else value
    return configuration


def test_a_matcher_beside_the_script_is_found_wherever_the_configuration_is(
    start_orthanc: StartOrthanc, storescp: StoreScp, tmp_path: Path
) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    shutil.copy(SCRIPT, scripts)
    (scripts / "rules.py").write_text("def choose(study):\n    return 'PACS'\n")
    section = {"Rules": [{"Name": "ours", "Matcher": "rules.py:choose"}]}
    modalities = {"PACS": storescp.as_modality()}
    server = start_orthanc(scripts / SCRIPT.name, {"DicomModalities": modalities, "AutoForwardModality": section})
    server.store(make_study())
    server.wait_until(lambda: len(storescp.files()) == 1)
